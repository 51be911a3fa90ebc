-- The accounts of some tenants as they stood at the last checkpoint, with their version.
-- Parameters: tenants. Instants are milliseconds since 1970.
SELECT
    tenant, organization, plan, zone,
    toUnixTimestamp64Milli(account.period_start) AS period_start,
    toUnixTimestamp64Milli(account.period_end)   AS period_end,
    limit_micros, used_micros, balance_micros, uncovered_micros, available_micros, reserved_micros,
    unassigned_micros, grants,
    version
FROM account_snapshots AS account FINAL
WHERE tenant IN {tenants:Array(String)}
