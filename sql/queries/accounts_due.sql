-- The tenants whose accounts change by themselves at an instant or before, and when; the longest due first.
-- Parameters: at: milliseconds since 1970, as every instant here; limit.
-- Who was due by any stored snapshot is looked for first, without FINAL: then only these are read as they are now.
SELECT
    tenant,
    toUnixTimestamp64Milli(assumeNotNull(account.due_at)) AS due_at
FROM account_snapshots AS account FINAL
WHERE tenant IN (
        SELECT tenant FROM account_snapshots WHERE due_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
    )
  AND account.due_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
ORDER BY account.due_at, tenant
LIMIT {limit:UInt32}
