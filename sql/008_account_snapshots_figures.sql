-- Account snapshots learn what an account holds back, whose it is, and when it changes by itself.
-- Grain: one row per tenant, as before.  Key: tenant.
-- Engine: ReplacingMergeTree(version), as before.  Order: tenant.
-- Retention: for ever.
-- Rows stored before say that all of the balance is available, and that the account is due when its period ends.
-- details is JSON in the shape of AccountDetails in pipeline/core/account_details.py.
ALTER TABLE account_snapshots
    ADD COLUMN IF NOT EXISTS organization String
        COMMENT 'The organization the tenant belongs to, or empty' AFTER tenant,
    ADD COLUMN IF NOT EXISTS available_micros Int64 DEFAULT balance_micros
        COMMENT 'Can be spent now: credits valid now, less what is reserved or uncovered' AFTER uncovered_micros,
    ADD COLUMN IF NOT EXISTS reserved_micros Int64
        COMMENT 'Held by reservations' AFTER available_micros,
    ADD COLUMN IF NOT EXISTS unassigned_micros Int64 DEFAULT available_micros
        COMMENT 'Belong to no list''s share' AFTER reserved_micros,
    ADD COLUMN IF NOT EXISTS due_at Nullable(DateTime64(3, 'UTC')) DEFAULT period_end
        COMMENT 'When something happens by itself next: renewal, expiry, end of a reservation, recharge; NULL: never'
        AFTER grants,
    ADD COLUMN IF NOT EXISTS details String
        COMMENT 'Lists, reservations, recharging, quotas and the plan''s figures, as JSON' AFTER due_at
