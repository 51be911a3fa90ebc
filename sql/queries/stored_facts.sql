-- All facts of some tenants, field by field as the fold gave them, with their version.
-- Parameters: tenants; first_day, last_day: local days since 1970, both included.
SELECT
    tenant, message_key, message_id, source, kind, direction, status, country, category, list, member, inbox,
    campaign, encoding,
    toUnixTimestamp64Milli(fact.occurred_at)  AS occurred_at,
    toUnixTimestamp64Milli(fact.received_at)  AS received_at,
    toUInt16(fact.local_date)                 AS local_date,
    toUnixTimestamp64Milli(fact.period_start) AS period_start,
    messages, segments, quantity, rate_micros, credits_micros, rate_version, counterparty_hash, grant_id,
    grant_micros, further_grants, fingerprint, kafka_partition, kafka_offset,
    version
FROM rated_messages AS fact FINAL
WHERE tenant IN {tenants:Array(String)}
  AND toUInt16(fact.local_date) BETWEEN {first_day:UInt16} AND {last_day:UInt16}
SETTINGS do_not_merge_across_partitions_select_final = 1
