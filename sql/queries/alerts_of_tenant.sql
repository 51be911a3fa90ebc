-- A tenant's alerts that occurred in [starts_at, ends_at), oldest first.
-- Parameters: tenant; starts_at, ends_at: milliseconds since 1970, as every instant here.
SELECT
    alert_id,
    toUnixTimestamp64Milli(alert.period_start) AS period_start,
    toUnixTimestamp64Milli(alert.period_end)   AS period_end,
    level,
    arming,
    used_micros,
    limit_micros,
    remaining_micros,
    toUnixTimestamp64Milli(alert.run_out_at)   AS run_out_at,
    toUnixTimestamp64Milli(alert.occurred_at)  AS occurred_at
FROM alerts AS alert FINAL
WHERE tenant = {tenant:String}
  AND alert.occurred_at >= fromUnixTimestamp64Milli({starts_at:Int64}, 'UTC')
  AND alert.occurred_at <  fromUnixTimestamp64Milli({ends_at:Int64}, 'UTC')
ORDER BY occurred_at, period_start, level
