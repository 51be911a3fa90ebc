-- The alerts that occurred last, newest first, over all tenants.
-- Parameters: since: milliseconds since 1970, bounds what is looked at; limit.
SELECT
    tenant,
    level,
    used_micros,
    limit_micros,
    toUnixTimestamp64Milli(alert.occurred_at) AS occurred_at
FROM alerts AS alert FINAL
WHERE alert.occurred_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
ORDER BY alert.occurred_at DESC, tenant, level DESC
LIMIT {limit:UInt32}
