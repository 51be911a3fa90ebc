-- When a tenant's billing periods began, oldest first: each has an allowance of its own, be it of nothing.
-- Parameters: tenant. Milliseconds since 1970.
-- The tenant's plans tell when periods begin, but these are those that did, whatever plans there were. An allowance
-- that a later plan gave within a period has another id.
SELECT DISTINCT toUnixTimestamp64Milli(entry.effective_at) AS starts_at
FROM ledger_entries AS entry FINAL
WHERE tenant = {tenant:String}
  AND kind = 'allowance'
  AND grant_id = concat('allowance:', toString(toUnixTimestamp64Milli(entry.effective_at)))
ORDER BY starts_at
