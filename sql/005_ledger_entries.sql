-- The ledger: every change of an account's credits, from which a statement is written.
-- Grain: one row per entry: a command, renewal or expiry; for usage one per tenant, window and grant, and for
--   usage that came too late for its window one per message and grant.
-- Key: tenant and entry_id, which follows from the log.
-- Engine: ReplacingMergeTree(version): a usage entry is an absolute value until its window's grace ends;
--   read with FINAL.
-- Order: a tenant's entries lie together.
-- Retention: for ever.
CREATE TABLE IF NOT EXISTS ledger_entries
(
    tenant               String,
    entry_id             String,
    kind                 LowCardinality(String) COMMENT 'allowance, purchase, promotion, adjustment, plan_change, expiry, usage, late_usage',
    grant_id             String,
    window_start         DateTime('UTC')        COMMENT 'Of usage: its 15-minute window; otherwise 1970-01-01',
    amount_micros        Int64                  COMMENT 'Above zero adds credits, below zero takes them',
    balance_after_micros Nullable(Int64)        COMMENT 'Where the entry has one place in the log; usage has none',
    cause                String                 COMMENT 'Id of the command that caused it, or empty',
    effective_at         DateTime64(3, 'UTC'),
    posted_at            DateTime64(3, 'UTC'),
    kafka_partition      UInt16,
    version              UInt64                 COMMENT 'Offset applied last'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, entry_id)
SETTINGS non_replicated_deduplication_window = 1000
