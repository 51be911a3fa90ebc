-- All usage windows of some tenants with their version.
-- Parameters: tenants; starts_at, ends_at: windows that start in [starts_at, ends_at), milliseconds since 1970.
SELECT
    tenant,
    toInt64(toUnixTimestamp(used.window_start)) * 1000 AS window_start,
    kind, direction, country, category, messages, segments, quantity, credits_micros, version
FROM usage_15m AS used FINAL
WHERE tenant IN {tenants:Array(String)}
  AND used.window_start >= toDateTime(intDiv({starts_at:Int64}, 1000), 'UTC')
  AND used.window_start <  toDateTime(intDiv({ends_at:Int64}, 1000), 'UTC')
SETTINGS do_not_merge_across_partitions_select_final = 1
