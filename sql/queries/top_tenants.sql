-- The tenants that used most credits in [starts_at, ends_at), highest first.
-- Parameters: starts_at, ends_at: seconds since 1970, multiples of 900; limit.
-- Reads all tenants' windows of the months it touches.
SELECT
    tenant,
    sum(usage.messages)       AS messages,
    sum(usage.segments)       AS segments,
    sum(usage.quantity)       AS quantity,
    sum(usage.credits_micros) AS credits_micros
FROM usage_15m AS usage FINAL
WHERE window_start >= toDateTime({starts_at:UInt32}, 'UTC')
  AND window_start <  toDateTime({ends_at:UInt32}, 'UTC')
GROUP BY tenant
ORDER BY credits_micros DESC, tenant
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1
