-- A tenant's usage by period and by list, campaign, member or inbox, which windows do not tell apart.
-- Parameters: tenant; bounds: milliseconds since 1970, ascending: period i is [bounds[i], bounds[i + 1]);
--   label: list, campaign, member or inbox.
-- A period without usage has no row; messages without the label have an empty one. Reads the tenant's facts.
SELECT
    roundDown(toUnixTimestamp64Milli(fact.occurred_at), {bounds:Array(Int64)}) AS period_start,
    multiIf(
        {label:String} = 'list', list,
        {label:String} = 'campaign', campaign,
        {label:String} = 'member', member,
        {label:String} = 'inbox', inbox,
        throwIf({label:String} NOT IN ('list', 'campaign', 'member', 'inbox'), 'no such label') ? '' : ''
    ) AS by_label,
    sum(fact.messages)       AS messages,
    sum(fact.segments)       AS segments,
    sum(fact.quantity)       AS quantity,
    sum(fact.credits_micros) AS credits_micros
FROM rated_messages AS fact FINAL
WHERE tenant = {tenant:String}
  AND fact.occurred_at >= fromUnixTimestamp64Milli({bounds:Array(Int64)}[1], 'UTC')
  AND fact.occurred_at <  fromUnixTimestamp64Milli({bounds:Array(Int64)}[-1], 'UTC')
GROUP BY period_start, by_label
ORDER BY period_start, by_label
SETTINGS do_not_merge_across_partitions_select_final = 1
