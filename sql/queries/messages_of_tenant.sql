-- A tenant's messages and refunds that occurred in [starts_at, ends_at), newest first: what a figure is made of.
-- Parameters: tenant; starts_at, ends_at: milliseconds since 1970, as every instant here; limit;
--   list, campaign, category, message_id: arrays of one value to keep to, or empty for all.
SELECT
    message_id,
    source,
    kind,
    direction,
    status,
    country,
    category,
    list,
    member,
    inbox,
    campaign,
    encoding,
    toUnixTimestamp64Milli(fact.occurred_at)  AS occurred_at,
    toUnixTimestamp64Milli(fact.period_start) AS period_start,
    messages,
    segments,
    quantity,
    rate_micros,
    rate_version,
    credits_micros,
    grants,
    counterparty_hash
FROM rated_messages AS fact FINAL
WHERE tenant = {tenant:String}
  AND fact.occurred_at >= fromUnixTimestamp64Milli({starts_at:Int64}, 'UTC')
  AND fact.occurred_at <  fromUnixTimestamp64Milli({ends_at:Int64}, 'UTC')
  AND (empty({list:Array(String)}) OR list IN {list:Array(String)})
  AND (empty({campaign:Array(String)}) OR campaign IN {campaign:Array(String)})
  AND (empty({category:Array(String)}) OR category IN {category:Array(String)})
  AND (empty({message_id:Array(String)}) OR fact.message_id IN {message_id:Array(String)})
ORDER BY fact.occurred_at DESC, message_key
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1
