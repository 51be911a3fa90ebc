-- The facts learn who sent, in which period a message counts, and refunds.
-- Grain: one row per charged message, and one per refund. A refund has its message's dimensions and moment, no
--   messages and no segments, and negative sums; its status, received_at and position are those of the record
--   that said the message had failed. So `messages` counts messages, rows do not.
-- Key: as before; a refund's message_key is its own, a hash of its message's key and the word refund.
-- Engine: as before.  Order: as before.  Retention: as before.
-- Rows stored before this are messages: they get 1 message, and a period_start of 1970, which says nothing.
ALTER TABLE rated_messages
    ADD COLUMN IF NOT EXISTS member String
        COMMENT 'Who of the tenant sent it, or empty' AFTER list,
    ADD COLUMN IF NOT EXISTS inbox String
        COMMENT 'The shared inbox it went through, or empty' AFTER member,
    ADD COLUMN IF NOT EXISTS period_start DateTime64(3, 'UTC')
        COMMENT 'Start of the period it counts in; after occurred_at: its own was closed' AFTER local_date,
    ADD COLUMN IF NOT EXISTS messages Int8 DEFAULT 1
        COMMENT '1, or 0 in a refund' AFTER period_start
