-- All ledger entries of some tenants with their version.
-- Parameters: tenants; starts_at, ends_at: entries effective in [starts_at, ends_at), milliseconds since 1970.
SELECT
    tenant, entry_id, kind, grant_id,
    toInt64(toUnixTimestamp(entry.window_start)) * 1000 AS window_start,
    amount_micros, balance_after_micros, money_micros, currency, cause,
    toUnixTimestamp64Milli(entry.effective_at) AS effective_at,
    toUnixTimestamp64Milli(entry.posted_at)    AS posted_at,
    version
FROM ledger_entries AS entry FINAL
WHERE tenant IN {tenants:Array(String)}
  AND toUnixTimestamp64Milli(entry.effective_at) >= {starts_at:Int64}
  AND toUnixTimestamp64Milli(entry.effective_at) <  {ends_at:Int64}
