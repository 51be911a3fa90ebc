"""Every metric of `msgmeter schedule`: what it sends, and how the deployment looks from outside.

There is one scheduler per deployment, and it goes on when every worker is gone, so it is the one that can tell. What it
reads of the group and of ClickHouse is in `FLEET`: not shown before it was read, and not any more once it could not
be read. `msgmeter_fleet_last_success_timestamp_seconds` stays, and says since when something is missing.
"""

from prometheus_client import Counter, Gauge

from pipeline.metrics.registry import Figure, Figures, new_registry

LEVELS = (80, 85, 90, 95)
"""Percent of their limit that tenants are counted by."""

REGISTRY = new_registry("scheduler")

LAST_ROUND = Gauge(
    "msgmeter_schedule_last_success_timestamp_seconds",
    "When accounts were last looked for that are due, in seconds since 1970; 0: not yet.",
    registry=REGISTRY,
)
TICKS_SENT = Counter("msgmeter_ticks_sent", "Ticks sent to accounts that were due.", registry=REGISTRY)
TICKS_REPEATED = Counter(
    "msgmeter_ticks_repeated",
    "Of those, ticks that were sent before and had no effect yet.",
    registry=REGISTRY,
)

FLEET = Figures(
    REGISTRY,
    {
        "accounts_due": Figure("Accounts with something due that has not happened yet, at the last round."),
        "kafka_up": Figure("1: Kafka answered in the last round, be it with a refusal; 0: it did not."),
        "kafka_refuses": Figure(
            "1: Kafka answered in the last round and refused: a login, a permission or a topic is missing; 0: not."
        ),
        "clickhouse_up": Figure(
            "1: ClickHouse answered in the last round, be it with a refusal; 0: it did not."
        ),
        "clickhouse_refuses": Figure(
            "1: ClickHouse answered in the last round and refused: a login, a permission or a table is missing; 0:"
            " not."
        ),
        "partitions": Figure("Partitions of messages.raw."),
        "group_members": Figure("Workers in the consumer group."),
        "group_lag_offsets": Figure("Records in the log of all partitions that no worker has committed yet."),
        "group_lag_seconds": Figure(
            "Age of the oldest record that no worker has committed yet; 0 when there is none."
        ),
        "tenants": Figure("Tenants with an account."),
        "tenants_over_level": Figure(
            "Tenants that have used at least so many percent of their period's limit.", "level"
        ),
        "tenants_unalerted": Figure(
            "Tenants that have used 95 percent or more of their period's limit, under a plan that alerts then, and"
            " have no alert of it."
        ),
        "recharges_unanswered": Figure("Blocks of credits asked for that nobody has confirmed or declined."),
        "recharge_oldest_unanswered_seconds": Figure(
            "Age of the oldest of those requests; 0 when there is none."
        ),
        "fleet_last_success_timestamp_seconds": Figure(
            "When the figures of group and tenants were last read, in seconds since 1970."
        ),
    },
)
