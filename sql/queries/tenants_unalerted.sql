-- How many tenants have reached 95 per cent in the open period, under a plan with that level, and have no alert of it.
-- Parameters: at: milliseconds since 1970.
-- An epoch stores its alerts before a checkpoint stores accounts, so who stands there with 95 per cent has been alerted,
-- but for what is stored while this is asked. An alert from before the level was armed again does not count. Whether it
-- was, the arming says, unless a level above 95 has fired too: that may have been armed again without this one.
SELECT count()
FROM
(
    SELECT tenant, account.period_start AS period_start, alert_arming
    FROM account_snapshots AS account FINAL
    WHERE account.period_start <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
      AND account.period_end > fromUnixTimestamp64Milli({at:Int64}, 'UTC')
      AND limit_micros > 0
      AND toInt128(used_micros) * 100 >= toInt128(limit_micros) * 95
      AND has(alert_levels, 95)
) AS reached
LEFT JOIN
(
    SELECT
        tenant,
        alert.period_start        AS period_start,
        maxIf(arming, level = 95) AS last_arming,
        max(level) > 95           AS is_above
    FROM alerts AS alert
    WHERE level >= 95
      AND alert.period_end > fromUnixTimestamp64Milli({at:Int64}, 'UTC')
    GROUP BY tenant, period_start
) AS fired
USING (tenant, period_start)
WHERE last_arming = 0 OR (alert_arming > last_arming AND NOT is_above)
