-- When a tenant's billing periods began, oldest first: each has an allowance, be it of nothing.
-- Parameters: tenant. Milliseconds since 1970.
-- The tenant's plans tell when periods begin, but these are those that did, whatever plans there were.
SELECT DISTINCT toUnixTimestamp64Milli(entry.effective_at) AS starts_at
FROM ledger_entries AS entry FINAL
WHERE tenant = {tenant:String}
  AND kind = 'allowance'
ORDER BY starts_at
