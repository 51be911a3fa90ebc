-- The tenants whose accounts change by themselves at an instant or before, and when; the longest due first.
-- Parameters: at: milliseconds since 1970, as every instant here; limit.
-- Reads one column of all tenants.
SELECT
    tenant,
    toUnixTimestamp64Milli(assumeNotNull(account.due_at)) AS due_at
FROM account_snapshots AS account FINAL
WHERE account.due_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
ORDER BY account.due_at, tenant
LIMIT {limit:UInt32}
