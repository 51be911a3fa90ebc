-- A tenant's balance at an instant: the sum of its entries that were effective before it, with what opens a statement.
-- Parameters: tenant; at: milliseconds since 1970.
-- 0 where there is no entry. What was posted since about the time before, late usage for instance, is in it.
SELECT sum(amount_micros)
FROM ledger_entries FINAL
WHERE tenant = {tenant:String}
  AND effective_at < fromUnixTimestamp64Milli({at:Int64}, 'UTC')
