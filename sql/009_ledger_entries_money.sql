-- Ledger entries learn what was paid or is owed for them; the list of kinds is complete.
-- Grain: one row per entry, as before.  Key: tenant and entry_id.
-- Engine: ReplacingMergeTree(version), as before.  Order: a tenant's entries lie together.
-- Retention: for ever.
ALTER TABLE ledger_entries
    ADD COLUMN IF NOT EXISTS money_micros Int64
        COMMENT 'Paid or owed for it, in micro-units of currency; below zero where a payment was taken back'
        AFTER balance_after_micros,
    ADD COLUMN IF NOT EXISTS currency LowCardinality(String)
        COMMENT 'ISO 4217, or empty where there is no money in it' AFTER money_micros,
    COMMENT COLUMN kind 'allowance, purchase, promotion, adjustment, plan_change, rollover, extension, expiry, expiry_correction, settlement, payment, arrears, write_off, void, commit, usage, late_usage or refund'
