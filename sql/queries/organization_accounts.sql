-- The accounts of an organization's tenants as they stood at the last checkpoint, by tenant.
-- Parameters: organization. Instants are milliseconds since 1970. Columns as in account_of_tenant.
-- Who ever said to belong to it is looked for first, in one column and without FINAL: then only these are read whole.
SELECT
    plan,
    zone,
    toUnixTimestamp64Milli(account.period_start) AS period_start,
    toUnixTimestamp64Milli(account.period_end)   AS period_end,
    limit_micros,
    used_micros,
    balance_micros,
    uncovered_micros,
    grants,
    toUnixTimestamp64Milli(account.as_of)        AS as_of,
    tenant,
    organization,
    available_micros,
    reserved_micros,
    unassigned_micros,
    toUnixTimestamp64Milli(account.due_at)       AS due_at,
    details
FROM account_snapshots AS account FINAL
WHERE tenant IN (SELECT tenant FROM account_snapshots WHERE organization = {organization:String})
  AND organization = {organization:String}
ORDER BY tenant
