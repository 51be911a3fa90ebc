-- The migrations applied to this database.
-- Grain: one row per applied migration.  Key: version.
-- Engine: ReplacingMergeTree, so that a row written twice counts once.  Order: version.
-- Retention: for ever.
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt16                 COMMENT 'The number the file name starts with',
    name       String                 COMMENT 'File name without its ending',
    checksum   FixedString(64)        COMMENT 'SHA-256 of the file, in hexadecimal',
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY version
