-- Usage: what was counted in each 15-minute UTC window, from which days, weeks and months of any zone are summed.
-- Grain: one row per tenant, window and combination of dimensions.  Key: all of them.
-- Engine: ReplacingMergeTree(version) of absolute values: the highest version is the window, nothing is added up
--   by the engine; read with FINAL.
-- Order: a tenant's windows lie together in time.
-- Retention: kept; a month is a partition.
CREATE TABLE IF NOT EXISTS usage_15m
(
    tenant         String,
    window_start   DateTime('UTC')        COMMENT 'The window is [window_start, window_start + 900 s)',
    kind           LowCardinality(String),
    direction      LowCardinality(String),
    country        LowCardinality(String),
    category       LowCardinality(String),
    messages       Int64,
    segments       Int64,
    quantity       Int64                  COMMENT 'Billed units',
    credits_micros Int64,
    version        UInt64                 COMMENT 'Offset applied last; a repair states a higher one'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(window_start)
ORDER BY (tenant, window_start, kind, direction, country, category)
SETTINGS non_replicated_deduplication_window = 1000
