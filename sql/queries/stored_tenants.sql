-- Every tenant of whom anything is stored, in order.
-- Parameters: none.
SELECT DISTINCT tenant
FROM
(
    SELECT DISTINCT tenant FROM rated_messages
    UNION ALL
    SELECT DISTINCT tenant FROM usage_15m
    UNION ALL
    SELECT DISTINCT tenant FROM ledger_entries
    UNION ALL
    SELECT tenant FROM account_snapshots
    UNION ALL
    SELECT DISTINCT tenant FROM alerts
)
ORDER BY tenant
