-- A tenant's ledger entries effective in [starts_at, ends_at), in the order a statement lists them.
-- Parameters: tenant; starts_at, ends_at: milliseconds since 1970, as every instant here.
SELECT
    entry_id,
    kind,
    grant_id,
    toUnixTimestamp(entry.window_start) * 1000  AS window_start,
    amount_micros,
    balance_after_micros,
    cause,
    toUnixTimestamp64Milli(entry.effective_at)  AS effective_at,
    toUnixTimestamp64Milli(entry.posted_at)     AS posted_at,
    money_micros,
    currency
FROM ledger_entries AS entry FINAL
WHERE tenant = {tenant:String}
  AND entry.effective_at >= fromUnixTimestamp64Milli({starts_at:Int64}, 'UTC')
  AND entry.effective_at <  fromUnixTimestamp64Milli({ends_at:Int64}, 'UTC')
ORDER BY effective_at, version, entry_id
