-- Balances of some tenants against the sums of their ledger entries and against their grants: how many, how many are
-- being stored, and which differ.
-- Parameters: tenants. Listed are tenant, sum of entries, balance, credits of the grants less what is uncovered, the
-- least that remains of a grant, all in micro-credits, and the tenant's zone.
-- Entries that the account has not seen at its last checkpoint are left out; where one of them has replaced what it had
-- seen, the account is being stored.
SELECT
    count(),
    countIf(is_moving),
    countIf(differs AND NOT is_moving),
    groupArrayIf(1000)((tenant, posted, balance, held, least, zone), differs AND NOT is_moving)
FROM
(
    SELECT
        tenant, any(zone) AS zone, max(ahead) AS is_moving, sum(amount) AS posted,
        any(balance_micros) AS balance, any(held_micros) AS held, any(least_micros) AS least,
        posted != balance OR held != balance OR least < 0 AS differs
    FROM
    (
        SELECT
            tenant, zone, balance_micros, version AS applied,
            JSONExtractArrayRaw(grants) AS each,
            arraySum(g -> if(JSONExtractBool(g, 'is_expired'), 0, JSONExtractInt(g, 'remaining')), each)
                - uncovered_micros AS held_micros,
            arrayMin(g -> JSONExtractInt(g, 'remaining'), arrayPushBack(each, '{"remaining":0}')) AS least_micros
        FROM account_snapshots FINAL
        WHERE tenant IN {tenants:Array(String)}
    ) AS account
    LEFT JOIN
    (
        SELECT tenant, kind, version AS posted_version, amount_micros
        FROM ledger_entries FINAL
        WHERE tenant IN {tenants:Array(String)}
    ) AS entry USING tenant
    ARRAY JOIN
        [posted_version > applied AND kind IN ('usage', 'expiry_correction')] AS ahead,
        [if(posted_version > applied, 0, amount_micros)]                      AS amount
    GROUP BY tenant
)
