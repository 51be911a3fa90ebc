-- What a tenant's grants held at an instant: the sums of the entries that were effective before it, by grant.
-- Parameters: tenant; at: milliseconds since 1970.
-- A grant of which nothing is left has no row; grant '' is what no grant covered, below zero. What was posted since
-- about the time before, late usage for instance, is in it.
SELECT grant_id, sum(amount_micros) AS micros
FROM ledger_entries FINAL
WHERE tenant = {tenant:String}
  AND effective_at < fromUnixTimestamp64Milli({at:Int64}, 'UTC')
GROUP BY grant_id
HAVING micros != 0
ORDER BY grant_id
