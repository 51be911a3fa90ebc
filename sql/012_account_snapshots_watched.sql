-- Account snapshots learn in columns of their own what is watched over all tenants every few seconds.
-- Grain: one row per tenant, as before.  Key: tenant.
-- Engine: ReplacingMergeTree(version), as before.  Order: tenant.
-- Retention: for ever.
-- All three are made of details, so nobody inserts them: of older parts they are computed whenever they are read, until
-- a merge keeps them. Snapshots of earlier releases have the arming 0, and a request to recharge since as_of.
ALTER TABLE account_snapshots
    ADD COLUMN IF NOT EXISTS alert_levels Array(UInt8)
        MATERIALIZED JSONExtract(details, 'plan', 'alert_levels', 'Array(UInt8)')
        COMMENT 'Per cent: at which levels of usage the plan alerts' AFTER details,
    ADD COLUMN IF NOT EXISTS alert_arming UInt32
        MATERIALIZED JSONExtractUInt(details, 'alert_arming')
        COMMENT 'Under which number the period''s levels are armed, from 1; 0: not known' AFTER alert_levels,
    ADD COLUMN IF NOT EXISTS recharge_asked_at Nullable(DateTime64(3, 'UTC'))
        MATERIALIZED if(
            JSONExtractString(details, 'recharge', 'in_flight') = '',
            NULL,
            if(
                JSONExtractInt(details, 'recharge', 'asked_at') > 0,
                fromUnixTimestamp64Milli(JSONExtractInt(details, 'recharge', 'asked_at'), 'UTC'),
                as_of
            )
        )
        COMMENT 'When the request for a block of credits was made that waits for its answer; NULL: none waits'
        AFTER alert_arming
