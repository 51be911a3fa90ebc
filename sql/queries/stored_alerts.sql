-- All alerts of some tenants with their version.
-- Parameters: tenants. Instants are milliseconds since 1970.
SELECT
    tenant, alert_id,
    toUnixTimestamp64Milli(alert.period_start) AS period_start,
    toUnixTimestamp64Milli(alert.period_end)   AS period_end,
    level, arming, used_micros, limit_micros, remaining_micros,
    toUnixTimestamp64Milli(alert.run_out_at)   AS run_out_at,
    toUnixTimestamp64Milli(alert.occurred_at)  AS occurred_at,
    version
FROM alerts AS alert FINAL
WHERE tenant IN {tenants:Array(String)}
