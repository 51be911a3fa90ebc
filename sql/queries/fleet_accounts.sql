-- How all accounts stand together, as of their last checkpoints; always one row.
-- Parameters: at: milliseconds since 1970, as every instant here.
-- Columns: accounts; those that have used at least 80, 85, 90 and 95 per cent of what is usable in the open period; those
-- that wait for the answer to a request to recharge, and the instant of the first of these, 0 where none waits.
-- A period that has ended and was not renewed yet counts nowhere, nor does one in which nothing is usable.
SELECT
    count()                      AS accounts,
    countIf(used >= 80 * usable) AS over_80,
    countIf(used >= 85 * usable) AS over_85,
    countIf(used >= 90 * usable) AS over_90,
    countIf(used >= 95 * usable) AS over_95,
    count(asked_at)              AS waiting,
    ifNull(min(asked_at), 0)     AS first_asked_at
FROM
(
    SELECT
        -- In per cent a trillion credits are beyond 64 bits.
        if(
            account.period_start <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
                AND account.period_end > fromUnixTimestamp64Milli({at:Int64}, 'UTC')
                AND limit_micros > 0,
            toInt128(used_micros) * 100,
            toInt128(-1)
        )                                         AS used,
        toInt128(greatest(limit_micros, 1))       AS usable,
        toUnixTimestamp64Milli(recharge_asked_at) AS asked_at
    FROM account_snapshots AS account FINAL
)
