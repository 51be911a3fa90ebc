-- Alerts: the levels of usage each tenant reached.
-- Grain: one row per tenant, period, level and arming.  Key: tenant and alert_id, which is made of them.
-- Engine: ReplacingMergeTree(version): the same alert stored again after a crash is absorbed; read with FINAL.
-- Order: a tenant's alerts lie together.
-- Retention: for ever.
CREATE TABLE IF NOT EXISTS alerts
(
    tenant           String,
    alert_id         String,
    period_start     DateTime64(3, 'UTC') COMMENT 'The billing period is [period_start, period_end)',
    period_end       DateTime64(3, 'UTC'),
    level            UInt8                COMMENT 'Per cent of limit_micros that used_micros reached',
    arming           UInt32               COMMENT 'How often the level was armed in the period, from 1',
    used_micros      Int64,
    limit_micros     Int64,
    remaining_micros Int64,
    run_out_at       Nullable(DateTime64(3, 'UTC')) COMMENT 'When the credits end at the present pace, if they do',
    occurred_at      DateTime64(3, 'UTC') COMMENT 'Append time of the record that reached the level',
    kafka_partition  UInt16,
    kafka_offset     Int64,
    version          UInt64               COMMENT 'Offset of the record that reached the level'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, alert_id)
SETTINGS non_replicated_deduplication_window = 1000
