-- A tenant's account as it stood at the last checkpoint; no row if the tenant has none.
-- Parameters: tenant. Instants are milliseconds since 1970.
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
WHERE tenant = {tenant:String}
