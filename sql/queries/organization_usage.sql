-- The usage of an organization's tenants together by period and, where asked, by tenant and other dimensions.
-- Parameters: organization; bounds: seconds since 1970, ascending, multiples of 900; by: as in usage_by_period, and
--   'tenant' to tell the tenants apart.
-- The sum, over the tenants that belong to it now, of what usage_by_period says of each.
SELECT
    roundDown(toUnixTimestamp(window_start), {bounds:Array(UInt32)}) AS period_start,
    if(has({by:Array(String)}, 'tenant'), tenant, '')       AS by_tenant,
    if(has({by:Array(String)}, 'kind'), kind, '')           AS by_kind,
    if(has({by:Array(String)}, 'direction'), direction, '') AS by_direction,
    if(has({by:Array(String)}, 'country'), country, '')     AS by_country,
    if(has({by:Array(String)}, 'category'), category, '')   AS by_category,
    sum(usage.messages)       AS messages,
    sum(usage.segments)       AS segments,
    sum(usage.quantity)       AS quantity,
    sum(usage.credits_micros) AS credits_micros
FROM usage_15m AS usage FINAL
WHERE tenant IN (
        SELECT tenant
        FROM account_snapshots FINAL
        WHERE tenant IN (SELECT tenant FROM account_snapshots WHERE organization = {organization:String})
          AND organization = {organization:String}
    )
  AND window_start >= toDateTime({bounds:Array(UInt32)}[1], 'UTC')
  AND window_start <  toDateTime({bounds:Array(UInt32)}[-1], 'UTC')
GROUP BY period_start, by_tenant, by_kind, by_direction, by_country, by_category
ORDER BY period_start, by_tenant, by_kind, by_direction, by_country, by_category
SETTINGS do_not_merge_across_partitions_select_final = 1
