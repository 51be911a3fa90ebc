-- How many contacts of a tenant count at an instant, exactly: marked active, or messaged not long ago.
-- Parameters: tenant; since, at: milliseconds since 1970; messaged in (since, at] counts as messaged not long ago.
-- Marks are those that hold now. The same rule as count_contacts in pipeline/core/contacts.py.
-- Facts are read without FINAL: a row stored twice says of its contact what the row it repeats has said.
-- A refund's row is no message, and an inbound one was not sent to anybody.
SELECT
    toInt64(countIf(is_messaged OR mark = 'active'))    AS active,
    toInt64(countIf(is_messaged AND mark = 'inactive')) AS inactive,
    toInt64(countIf(is_messaged AND mark = 'removed'))  AS removed
FROM
(
    SELECT contact_hash, max(messaged) AS is_messaged, max(state) AS mark
    FROM
    (
        SELECT counterparty_hash AS contact_hash, true AS messaged, '' AS state
        FROM rated_messages
        WHERE tenant = {tenant:String}
          AND occurred_at >  fromUnixTimestamp64Milli({since:Int64}, 'UTC')
          AND occurred_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')
          AND direction = 'outbound'
          AND messages > 0
        GROUP BY counterparty_hash
        UNION ALL
        SELECT contact_hash, false AS messaged, toString(contact_marks.state) AS state
        FROM contact_marks FINAL
        WHERE tenant = {tenant:String}
    )
    GROUP BY contact_hash
)
