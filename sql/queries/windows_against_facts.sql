-- Usage windows of some tenants against the sums of their facts: how many, how many are being stored, and which differ.
-- Parameters: tenants; starts_at, ends_at: windows that start in [starts_at, ends_at), milliseconds since 1970. Listed are
-- key, the facts' four sums, the window's, and the tenant's zone.
-- Facts are stored with every epoch and windows with every checkpoint, accounts last: facts that the account has not
-- seen are left out, and windows that have seen more than it are being stored.
SELECT
    count(),
    countIf(is_moving),
    countIf(differs AND NOT is_moving),
    groupArrayIf(1000)(
        (tenant, start, kind, direction, country, category, facts.1, facts.2, facts.3, facts.4,
         windows.1, windows.2, windows.3, windows.4, zone),
        differs AND NOT is_moving)
FROM
(
    SELECT
        tenant, start, kind, direction, country, category, any(zone) AS zone, max(ahead) AS is_moving,
        (sum(m), sum(s), sum(q), sum(c))     AS facts,
        (sum(wm), sum(ws), sum(wq), sum(wc)) AS windows,
        facts != windows                     AS differs
    FROM
    (
        SELECT
            tenant, intDiv(toUnixTimestamp64Milli(occurred_at), 900000) * 900000 AS start,
            kind, direction, country, category, zone, false AS ahead,
            toInt64(messages) AS m, toInt64(segments) AS s, toInt64(quantity) AS q, credits_micros AS c,
            toInt64(0) AS wm, toInt64(0) AS ws, toInt64(0) AS wq, toInt64(0) AS wc
        FROM (SELECT * FROM rated_messages FINAL WHERE tenant IN {tenants:Array(String)}) AS fact
        INNER JOIN
        (
            SELECT tenant, zone, version AS applied FROM account_snapshots FINAL WHERE tenant IN {tenants:Array(String)}
        ) AS account USING tenant
        WHERE version <= applied AND start >= {starts_at:Int64} AND start < {ends_at:Int64}
        UNION ALL
        SELECT
            tenant, toInt64(toUnixTimestamp(window_start)) * 1000 AS start,
            kind, direction, country, category, zone, version > applied AS ahead,
            0, 0, 0, 0, messages, segments, quantity, credits_micros
        FROM (SELECT * FROM usage_15m FINAL WHERE tenant IN {tenants:Array(String)}) AS used
        INNER JOIN
        (
            SELECT tenant, zone, version AS applied FROM account_snapshots FINAL WHERE tenant IN {tenants:Array(String)}
        ) AS account USING tenant
        WHERE start >= {starts_at:Int64} AND start < {ends_at:Int64}
    )
    GROUP BY tenant, start, kind, direction, country, category
)
SETTINGS do_not_merge_across_partitions_select_final = 1
