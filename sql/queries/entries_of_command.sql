-- The ledger entries that one command of a tenant caused, in the order of the log.
-- Parameters: tenant; cause: the command's id.
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
  AND cause = {cause:String}
ORDER BY effective_at, version, entry_id
