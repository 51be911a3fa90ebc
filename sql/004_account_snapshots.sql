-- Accounts as they stood at the last checkpoint.
-- Grain: one row per tenant.  Key: tenant.
-- Engine: ReplacingMergeTree(version): the highest applied offset is the account; read with FINAL.
-- Order: tenant.
-- Retention: for ever; what an account was before is in ledger_entries.
CREATE TABLE IF NOT EXISTS account_snapshots
(
    tenant           String,
    plan             LowCardinality(String),
    zone             LowCardinality(String) COMMENT 'IANA time zone of days and periods',
    period_start     DateTime64(3, 'UTC')   COMMENT 'The billing period is [period_start, period_end)',
    period_end       DateTime64(3, 'UTC'),
    limit_micros     Int64                  COMMENT 'Usable in the period: allowance, carried over and added',
    used_micros      Int64                  COMMENT 'Used in the period',
    balance_micros   Int64                  COMMENT 'Credits left in all grants, less what is uncovered',
    uncovered_micros Int64                  COMMENT 'Metered beyond every grant',
    grants           String                 COMMENT 'The open grants as JSON',
    as_of            DateTime64(3, 'UTC')   COMMENT 'Append time of the record applied last',
    kafka_partition  UInt16,
    version          UInt64                 COMMENT 'Offset applied last'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY tenant
SETTINGS non_replicated_deduplication_window = 1000
