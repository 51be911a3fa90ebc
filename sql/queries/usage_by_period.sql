-- A tenant's usage by period and, where asked, by kind, direction, country and category.
-- Parameters: tenant; bounds: seconds since 1970, ascending, multiples of 900. Period i is
--   [bounds[i], bounds[i + 1]); which instants bound a tenant's days, weeks and months is decided in Python,
--   because ClickHouse and Python disagree on some zones.
-- by: which of the four dimensions to tell apart; the others are empty in the answer.
-- A period without usage has no row. Reads the tenant's windows between the outer bounds.
SELECT
    roundDown(toUnixTimestamp(window_start), {bounds:Array(UInt32)}) AS period_start,
    if(has({by:Array(String)}, 'kind'), kind, '')           AS by_kind,
    if(has({by:Array(String)}, 'direction'), direction, '') AS by_direction,
    if(has({by:Array(String)}, 'country'), country, '')     AS by_country,
    if(has({by:Array(String)}, 'category'), category, '')   AS by_category,
    sum(usage.messages)       AS messages,
    sum(usage.segments)       AS segments,
    sum(usage.quantity)       AS quantity,
    sum(usage.credits_micros) AS credits_micros
FROM usage_15m AS usage FINAL
WHERE tenant = {tenant:String}
  AND window_start >= toDateTime({bounds:Array(UInt32)}[1], 'UTC')
  AND window_start <  toDateTime({bounds:Array(UInt32)}[-1], 'UTC')
GROUP BY period_start, by_kind, by_direction, by_country, by_category
ORDER BY period_start, by_kind, by_direction, by_country, by_category
SETTINGS do_not_merge_across_partitions_select_final = 1
