"""Who may do what in Kafka: the roles of a deployment, and the least that each of them needs.

Decides which topics and groups a role may read and write; the README's table and `msgmeter acls` show it, and a test
sets exactly this on a broker. Takes settings, which name the topics; gives permissions, and the commands of Kafka's
own tool that grant them. Brokers enforce it, not we.

Who may read or write a topic may also describe it, and who may write any topic may do so idempotently (Apache Kafka
3.0 and later), so neither is listed beside them.
"""

from dataclasses import dataclass

from pipeline.settings import Settings
from pipeline.topics import (
    ACCOUNT_RECHARGES,
    ACCOUNT_RESULTS,
    MESSAGES_RAW,
    MESSAGES_REFUSED,
    USAGE_ALERTS,
)

RECOVERY_GROUP = "msgmeter-recovery"
"""Named by workers that read changelogs; never joined, but librdkafka looks for its coordinator."""
COMMAND_LINE_GROUP = "msgmeter-command-line"
"""The same, for commands that wait for answers, and for `retry`."""
_ALERT_GROUPS = "alerts-"
"""What the names of groups that read alerts begin with."""


@dataclass(frozen=True)
class Permission:
    """What one role may do to some topics, or to a group."""

    role: str
    resource: str
    """`topic` or `group`."""
    names: tuple[str, ...]
    operations: tuple[str, ...]
    """In Kafka's words."""
    is_prefix: bool = False
    """The name is what names begin with."""


def permissions(settings: Settings) -> list[Permission]:
    """Everything each role needs, and nothing else; a role that is not listed for a topic has no business with it.

    State topics and groups are named by what their names begin with, because each era of the log has its own.
    """
    application = settings.application
    outputs = (ACCOUNT_RESULTS, ACCOUNT_RECHARGES, USAGE_ALERTS, MESSAGES_REFUSED)
    configured = ("Read", "Write", "DescribeConfigs")
    made = ("Create", "Describe", "DescribeConfigs")
    return [
        Permission("gateway", "topic", (MESSAGES_RAW,), ("Write",)),
        # Ticks go into the log; how far the workers' group is behind it is what a scheduler tells in its metrics.
        Permission("scheduler", "topic", (MESSAGES_RAW,), ("Read", "Write")),
        Permission("scheduler", "group", (application,), ("Describe",), is_prefix=True),
        # Commands go into the log, and their answers come back; `retry` reads what was refused and sends it again,
        # `reconcile` the log up to what the workers have committed, and everything they have published.
        Permission("operator", "topic", (MESSAGES_RAW,), ("Read", "Write")),
        Permission("operator", "topic", outputs, ("Read",)),
        Permission("operator", "group", (COMMAND_LINE_GROUP,), ("Describe",)),
        Permission("operator", "group", (application,), ("Describe",), is_prefix=True),
        # A record in another partition than its tenant's is forwarded, which is why workers write the log. Configs are
        # looked at before a worker joins: what it promises leans on them.
        Permission("worker", "topic", (MESSAGES_RAW,), configured),
        Permission("worker", "topic", (f"{application}-",), configured, is_prefix=True),
        Permission("worker", "topic", outputs, ("Write",)),
        Permission("worker", "group", (application,), ("Read",), is_prefix=True),
        Permission("worker", "group", (RECOVERY_GROUP,), ("Describe",)),
        Permission("alerts", "topic", (USAGE_ALERTS,), ("Read",)),
        Permission("alerts", "group", (_ALERT_GROUPS,), ("Read",), is_prefix=True),
        Permission("migrate", "topic", (MESSAGES_RAW, *outputs), made),
        Permission("migrate", "topic", (f"{application}-",), made, is_prefix=True),
    ]


def acl_command(permission: Permission, servers: str) -> str:
    """The call of Kafka's own tool that grants a permission to the user named like the role."""
    parts = [
        f"kafka-acls.sh --bootstrap-server {servers} --command-config admin.properties --add",
        f"--allow-principal User:{permission.role}",
        *(f"--operation {operation}" for operation in permission.operations),
        *(f"--{permission.resource} {name}" for name in permission.names),
        *(["--resource-pattern-type prefixed"] if permission.is_prefix else []),
    ]
    return " ".join(parts)
