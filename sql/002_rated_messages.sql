-- The facts: every message that was charged, as it was rated. Billing truth: everything else sums these.
-- Grain: one row per charged message; a correction is a row of its own with negative quantities.
-- Key: message_key within its tenant, day, kind and instant, which are the same in every record of a message.
-- Engine: ReplacingMergeTree(version). A row follows from its log position alone, so what is stored a second
--   time after a crash is the same row and is absorbed; read with FINAL.
-- Order: a tenant's days, kinds and instants lie together, as bills and reports read them.
-- Retention: kept; a month is a partition, so that it can be dropped or moved at once.
--
-- LowCardinality only where a part holds few values: tenants, campaigns, lists and grants go to tens of
-- thousands, where its dictionaries cost more at insert and merge than they save.
-- The projection is an index from message_key to the row, for looking up what an old message was charged. Keys
--   are hashes, so each lies in a granule of its own: small granules keep a look-up from reading the whole index.
--   'rebuild' keeps it right when a merge drops replaced rows. It costs 0.5 us a row, merges included; a
--   bloom filter costs as little, but a few hundred keys at once hit every granule of a large table.
-- min_parts_to_merge_at_once: with one part a second, merging ten at a time instead of as few as two rewrites each
--   row less often.
CREATE TABLE IF NOT EXISTS rated_messages
(
    tenant            String,
    message_key       FixedString(16)        COMMENT '128-bit hash of tenant, source and message id',
    message_id        String                 COMMENT 'The gateway''s id of the message',
    source            LowCardinality(String) COMMENT 'The gateway or provider account whose id it is',
    kind              LowCardinality(String) COMMENT 'sms, mms, rcs or email',
    direction         LowCardinality(String) COMMENT 'outbound or inbound',
    status            LowCardinality(String) COMMENT 'The billable status that charged it',
    country           LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2 of the counterparty, or empty',
    category          LowCardinality(String),
    list              String                 COMMENT 'The sub-account it was sent for, or empty',
    campaign          String                 COMMENT 'The campaign it was part of, or empty',
    encoding          LowCardinality(String) COMMENT 'GSM-7, UCS-2, 8-bit or empty',
    occurred_at       DateTime64(3, 'UTC')   COMMENT 'The message''s own moment; charges belong to it',
    received_at       DateTime64(3, 'UTC')   COMMENT 'When the broker appended the charging record',
    local_date        Date                   COMMENT 'The day of occurred_at in the tenant''s zone',
    segments          Int32                  COMMENT 'Negative in a correction',
    quantity          Int32                  COMMENT 'Billed units: segments, messages or recipients',
    rate_micros       Int64                  COMMENT 'Micro-credits per billed unit',
    credits_micros    Int64                  COMMENT 'Micro-credits charged: quantity x rate',
    rate_version      LowCardinality(String) COMMENT 'The rate card and version that rated it',
    counterparty_hash UInt64                 COMMENT 'Keyed hash of the other party''s address',
    grant_id          String                 COMMENT 'The first grant burned; empty: uncovered by any grant',
    grant_micros      Int64                  COMMENT 'Micro-credits burned from grant_id',
    further_grants    Map(String, Int64)     COMMENT 'The same for other grants, in the few rows at a boundary',
    fingerprint       UInt32                 COMMENT 'Hash of the message''s immutable fields',
    kafka_partition   UInt16                 COMMENT 'Where the charging record is in messages.raw',
    kafka_offset      Int64,
    version           UInt64                 COMMENT 'The charging record''s offset',
    grants            Map(String, Int64) ALIAS mapConcat(map(grant_id, grant_micros), further_grants)
        COMMENT 'The whole split over grants; its values sum to credits_micros',
    PROJECTION by_message_key INDEX message_key TYPE basic WITH SETTINGS (index_granularity = 512)
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (tenant, toDate(occurred_at), kind, occurred_at, message_key)
SETTINGS
    non_replicated_deduplication_window = 1000,
    deduplicate_merge_projection_mode = 'rebuild',
    min_parts_to_merge_at_once = 10
