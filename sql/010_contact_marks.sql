-- What tenants said of their contacts: which are active, inactive or removed.
-- Grain: one row per contact that was ever marked.  Key: tenant and contact_hash.
-- Engine: ReplacingMergeTree(version): the mark that came last in the log is the one; read with FINAL.
-- Order: a tenant's contacts lie together.
-- Retention: for ever. No address is stored: contact_hash is the counterparty_hash of rated_messages.
CREATE TABLE IF NOT EXISTS contact_marks
(
    tenant          String,
    contact_hash    UInt64                 COMMENT 'Keyed hash of the contact''s address',
    state           LowCardinality(String) COMMENT 'active, inactive or removed',
    effective_at    DateTime64(3, 'UTC')   COMMENT 'As the command had it; the order of the log decides which mark holds',
    kafka_partition UInt16,
    version         UInt64                 COMMENT 'Offset of the command'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, contact_hash)
SETTINGS non_replicated_deduplication_window = 1000
