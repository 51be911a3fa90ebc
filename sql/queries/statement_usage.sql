-- What was used by the messages that count in one period of a tenant, by kind, direction and country.
-- Parameters: tenant; starts_at, ends_at: the period in milliseconds since 1970.
-- Late are messages that occurred before the period. Refunds are rows of no messages and negative sums.
-- Reads the tenant's facts up to the period's end.
-- Facts are stored before the usage entries they are booked in: those the account has not seen at its last checkpoint
-- are left out, so that both say the same.
SELECT
    kind,
    direction,
    country,
    fact.occurred_at < fromUnixTimestamp64Milli({starts_at:Int64}, 'UTC') AS is_late,
    sum(fact.messages)                             AS messages,
    sum(fact.segments)                             AS segments,
    sum(fact.quantity)                             AS quantity,
    sumIf(fact.credits_micros, fact.messages != 0) AS credits_micros,
    -sumIf(fact.credits_micros, fact.messages = 0) AS refunded_micros
FROM rated_messages AS fact FINAL
WHERE tenant = {tenant:String}
  AND fact.occurred_at < fromUnixTimestamp64Milli({ends_at:Int64}, 'UTC')
  AND fact.version <= (SELECT max(version) FROM account_snapshots WHERE tenant = {tenant:String})
  AND fact.period_start = fromUnixTimestamp64Milli({starts_at:Int64}, 'UTC')
GROUP BY kind, direction, country, is_late
ORDER BY kind, direction, country, is_late
SETTINGS do_not_merge_across_partitions_select_final = 1
