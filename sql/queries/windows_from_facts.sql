-- Windows summed anew from the facts, for those the stream no longer holds and for repairs.
-- Parameters: tenants, starts: equally long, one pair per window; starts are seconds since 1970.
-- A combination of dimensions that usage_15m has and the facts have not is answered with zeros, so that storing
-- the answer leaves nothing behind.
SELECT tenant, start, kind, direction, country, category, sum(m), sum(s), sum(q), sum(c)
FROM
(
    SELECT
        tenant, toUInt32(intDiv(toUnixTimestamp64Milli(occurred_at), 900000) * 900) AS start,
        kind, direction, country, category,
        sum(messages) AS m, sum(segments) AS s, sum(quantity) AS q, sum(credits_micros) AS c
    FROM rated_messages FINAL
    WHERE tenant IN {tenants:Array(String)}
      AND occurred_at >= toDateTime64(arrayMin({starts:Array(UInt32)}), 3, 'UTC')
      AND occurred_at <  toDateTime64(arrayMax({starts:Array(UInt32)}) + 900, 3, 'UTC')
      AND (tenant, start) IN arrayZip({tenants:Array(String)}, {starts:Array(UInt32)})
    GROUP BY ALL
    UNION ALL
    SELECT
        tenant, toUnixTimestamp(window_start) AS start, kind, direction, country, category, 0, 0, 0, 0
    FROM usage_15m FINAL
    WHERE (tenant, window_start) IN
        arrayZip({tenants:Array(String)}, arrayMap(s -> toDateTime(s, 'UTC'), {starts:Array(UInt32)}))
)
GROUP BY ALL
ORDER BY ALL
SETTINGS do_not_merge_across_partitions_select_final = 1
