-- Eras of the log: how many partitions messages.raw has had, and from which records on.
-- Grain: one row per era after the first, which has number 0 and needs none.  Key: era.
-- Engine: ReplacingMergeTree(version): the last step of `msgmeter repartition` is where it stands; read with FINAL.
-- Order: era.
-- Retention: for ever: positions, which kafka_offset and version hold everywhere, are era * 10^12 + Kafka's offset.
CREATE TABLE IF NOT EXISTS log_eras
(
    era           UInt16,
    partitions    UInt16,
    first_offsets Array(UInt64)          COMMENT 'By partition: Kafka''s offset of its first record in this era',
    state         LowCardinality(String) COMMENT 'begun, ready, or withdrawn before anything was changed',
    changed_at    DateTime64(3, 'UTC'),
    version       UInt32                 COMMENT 'Steps of this era, counted from 1'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY era
SETTINGS non_replicated_deduplication_window = 1000
