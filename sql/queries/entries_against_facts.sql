-- What usage entries took from each grant, against what the facts say: how many windows and grants, how many are being
-- stored, and which differ.
-- Parameters: tenants; starts_at, ends_at: windows that start in [starts_at, ends_at), milliseconds since 1970. Listed
-- are window, grant, what the facts burned and what the entries took, in micro-credits, and the tenant's zone.
-- A window's entries are absolute and replaced at checkpoints: where one has seen more than the account, it is being
-- stored. Late entries and refunds have one place in the log: those that the account has not seen are left out.
SELECT
    count(),
    countIf(is_moving),
    countIf(differs AND NOT is_moving),
    groupArrayIf(1000)((tenant, start, grant, burned, taken, zone), differs AND NOT is_moving)
FROM
(
    SELECT
        tenant, start, grant, any(zone) AS zone, max(ahead) AS is_moving,
        sum(micros) AS burned, sum(amount) AS taken, burned != taken AS differs
    FROM
    (
        SELECT
            tenant, intDiv(toUnixTimestamp64Milli(occurred_at), 900000) * 900000 AS start,
            part.1 AS grant, zone, false AS ahead, part.2 AS micros, toInt64(0) AS amount
        FROM
        (
            SELECT
                tenant, occurred_at, version,
                arrayJoin(arrayConcat(
                    [(grant_id, grant_micros)],
                    arrayZip(mapKeys(further_grants), mapValues(further_grants)))) AS part
            FROM rated_messages FINAL
            WHERE tenant IN {tenants:Array(String)}
        ) AS fact
        INNER JOIN
        (
            SELECT tenant, zone, version AS applied FROM account_snapshots FINAL WHERE tenant IN {tenants:Array(String)}
        ) AS account USING tenant
        WHERE version <= applied AND micros != 0 AND start >= {starts_at:Int64} AND start < {ends_at:Int64}
        UNION ALL
        SELECT
            tenant, toInt64(toUnixTimestamp(window_start)) * 1000 AS start,
            grant_id, zone, version > applied AS ahead, 0, -amount_micros
        FROM
        (
            SELECT * FROM ledger_entries FINAL
            WHERE tenant IN {tenants:Array(String)} AND kind IN ('usage', 'late_usage', 'refund')
        ) AS entry
        INNER JOIN
        (
            SELECT tenant, zone, version AS applied FROM account_snapshots FINAL WHERE tenant IN {tenants:Array(String)}
        ) AS account USING tenant
        WHERE (kind = 'usage' OR version <= applied) AND start >= {starts_at:Int64} AND start < {ends_at:Int64}
    )
    GROUP BY tenant, start, grant
)
SETTINGS do_not_merge_across_partitions_select_final = 1
