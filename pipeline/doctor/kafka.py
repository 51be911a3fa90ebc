"""What a Kafka cluster must be like for the promises to hold: judgements, and nothing else.

Takes what was read of brokers, topics, the workers' group and our own permissions (`kafka_reading`), and what they must
be; gives findings. Pure: no broker is asked here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.access import Permission
from pipeline.doctor.findings import Finding, failure, ok, skipped, warning
from pipeline.topics import LEANED_ON, MESSAGES_RAW, Topic, config_faults

_OLDEST_RELEASE = (3, 0)
"""Before it, who may write a topic may not do so idempotently, and brokers cannot tell their newest append time."""
STALE_MILLISECONDS = 60_000
"""What is shown should not be older than this."""
STUCK_MILLISECONDS = 600_000
"""After so long something stands still; catching up after an outage of ClickHouse says so too, and is one."""
_SHOWN = 4
_NEARLY = 4
"""A login that lacks at most one in so many of a role's operations is meant for that role, and lacks something."""


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as the brokers have it."""

    partitions: int
    replicas: int
    """Of the partition that has the fewest; 0 where there is none."""
    in_sync: int
    """The same, of those that have all records."""
    leaderless: int
    """Partitions that nobody can write or read at present."""
    config: Mapping[str, str | None] | None
    """None where this login may not describe it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker in the group."""

    host: str
    partitions: frozenset[int]
    """Of `messages.raw`."""


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """The group of the workers, and how far it is."""

    state: str
    members: Sequence[Member]
    committed: Mapping[int, int | None]
    """By partition of `messages.raw` the next offset to read; None where nothing was committed."""
    bounds: Mapping[int, tuple[int, int]]
    """By partition the first offset that is still there, and the one after the last."""
    oldest_at: Mapping[int, int] = field(default_factory=dict)
    """Append times, epoch milliseconds, of the first records that are not committed; none where there is none."""


def judge_release(release: tuple[int, int]) -> Finding:
    """Judge the brokers' release, as their protocol shows it."""
    if release < _OLDEST_RELEASE:
        return failure(
            "brokers", "are older than Apache Kafka 3.0", "use 3.0 or later; 4.1 is what this was tested with"
        )
    return ok("brokers", f"speak the protocol of Apache Kafka {release[0]}.{release[1]} or later")


def judge_brokers(brokers: int, replication: int) -> Finding:
    """Judge the number of brokers that are up."""
    found = (
        f"{brokers} up, {replication} {'replica' if replication == 1 else 'replicas'} of each topic wanted"
    )
    if brokers < replication:
        return failure("replicas", found, "start the brokers that are missing, or none can take a new topic")
    return ok("replicas", found)


def judge_broker_config(config: Mapping[str, str | None] | None, replication: int) -> list[Finding]:
    """Judge a broker's own settings, where it shows them."""
    if config is None:
        return [skipped("broker settings", "this login may not describe them")]
    findings = []
    if config.get("auto.create.topics.enable") == "true":
        findings.append(
            warning(
                "broker settings",
                "auto.create.topics.enable=true: a misspelt name makes a topic, with settings of nobody's choice",
                "set it to false on every broker",
            )
        )
    for name in ("offsets.topic.replication.factor", "transaction.state.log.replication.factor"):
        value = config.get(name) or ""
        if value.isdigit() and int(value) < replication:
            remedy = f"set it to {replication}, and give the topic that is there more replicas"
            text = f"{name}={value}: a broker that is lost takes the group's offsets with it"
            findings.append(warning("broker settings", text, remedy))
    return findings or [
        ok("broker settings", "topics are not created by themselves; offsets are as safe as topics")
    ]


def judge_topic(wanted: Topic, found: FoundTopic | None, workers_need_it: bool) -> Finding:
    """Judge one topic that is not hidden; a worker that needs it does not start where it is not as it leans on."""
    subject = f"topic {wanted.name}"
    if found is None:
        return failure(subject, "is missing", "run `msgmeter migrate`")
    if found.partitions != wanted.partitions:
        return failure(
            subject,
            f"has {found.partitions} partitions, and MSGMETER_PARTITIONS is {wanted.partitions}",
            _partitions_remedy(wanted, found.partitions),
        )
    if found.leaderless:
        text = f"{found.leaderless} of {found.partitions} partitions have no leader: nobody can write or read them"
        return failure(subject, text, "start the brokers that hold them")
    least = int(wanted.config["min.insync.replicas"])
    if found.in_sync < least:
        text = f"a partition has {found.in_sync} in-sync replicas and needs {least}: nothing is acknowledged"
        return failure(subject, text, "start the brokers that are missing")
    return _judge_config(subject, wanted, found, workers_need_it)


def _judge_config(subject: str, wanted: Topic, found: FoundTopic, workers_need_it: bool) -> Finding:
    replicas = (
        f"{found.partitions} partitions, {found.replicas} {'replica' if found.replicas == 1 else 'replicas'}"
    )
    differing = config_faults(wanted, found.config) if found.config is not None else {}
    if differing:
        text = "; ".join(f"{name}={there}, not {wanted.config[name]}" for name, there in differing.items())
        values = ",".join(f"{name}={wanted.config[name]}" for name in differing)
        remedy = f"kafka-configs.sh --alter --topic {wanted.name} --add-config {values}"
        if workers_need_it and any(name in LEANED_ON for name in differing):
            return failure(subject, f"{text}; workers refuse to start", remedy)
        return warning(subject, text, remedy)
    if found.replicas < wanted.replication:
        text = f"{replicas}, and MSGMETER_REPLICATION is {wanted.replication}"
        return warning(
            subject, text, "kafka-reassign-partitions.sh gives it more, or set MSGMETER_REPLICATION to that"
        )
    if found.in_sync < found.replicas:
        return warning(
            subject, f"{replicas}, of which only {found.in_sync} have all records", "look at its brokers"
        )
    if found.config is None:
        return skipped(subject, f"{replicas}; this login may not describe its settings")
    return ok(subject, f"{replicas}, settings as needed")


def _partitions_remedy(wanted: Topic, found: int) -> str:
    if wanted.name != MESSAGES_RAW:
        return "partitions are added by `msgmeter repartition` alone; where they were by hand, restore what was saved"
    remedy = f"set MSGMETER_PARTITIONS to {found}"
    return f"{remedy}, or see `msgmeter repartition`" if wanted.partitions > found else remedy


def hidden_topic(wanted: Topic) -> Finding:
    """The finding of a topic that our login may not even see."""
    return skipped(
        f"topic {wanted.name}", "this login may not look at it, so whether it is there is not known"
    )


def judge_group(group: FoundGroup, now: int) -> list[Finding]:
    """Judge who meters which partitions, and how far behind they are."""
    return [_judge_members(group), *_judge_offsets(group), _judge_lag(group, now)]


def _judge_members(group: FoundGroup) -> Finding:
    subject = "workers"
    if not group.members:
        judged = failure if group.oldest_at else warning
        remedy = "start `msgmeter worker`; one that stands still: end it with kill -9 first"
        return judged(subject, "nobody is in the group: nothing is metered", remedy)
    owned = frozenset[int]().union(*(member.partitions for member in group.members))
    hosts = ", ".join(sorted({member.host for member in group.members})[:_SHOWN])
    found = f"{len(group.members)} in the group (at {hosts}), state {group.state.lower()}"
    unowned = sorted(group.bounds.keys() - owned)
    if unowned:
        text = f"{found}; nobody has {_listed('partition', unowned)}"
        remedy = "wait a minute, as a group may be sharing them out; then look at the logs of the workers"
        return warning(subject, text, remedy)
    idle = sum(not member.partitions for member in group.members)
    return ok(subject, f"{found}; {idle} of them have nothing to do" if idle else found)


def _judge_offsets(group: FoundGroup) -> list[Finding]:
    findings = []
    beyond = sorted(
        number for number, place in group.committed.items() if (place or 0) > group.bounds[number][1]
    )
    if beyond:
        findings.append(
            failure(
                "offsets",
                f"the log ends before what was committed in {_listed('partition', beyond)}: it has lost its end",
                "restore the log; see the README, Offsets and state topics belong together",
            )
        )
    begun = {number: place for number, place in group.committed.items() if place is not None}
    gone = sorted(number for number, place in begun.items() if place < group.bounds[number][0])
    if gone:
        findings.append(
            warning(
                "offsets",
                f"the log of {_listed('partition', gone)} begins behind what was committed: what was deleted there"
                " was never read, be it messages or only the marks of transactions",
                "compare with what gateways have sent, which must send again what is missing",
            )
        )
    unbegun = sorted(
        number for number in group.committed.keys() - begun.keys() if group.bounds[number][0] > 0
    )
    if unbegun:
        findings.append(
            warning(
                "offsets",
                f"nothing was committed of {_listed('partition', unbegun)}, and its first records were deleted:"
                " whether they were ever read is not known",
                "nothing where another group metered them, or this one before its offsets were forgotten",
            )
        )
    return findings


def _judge_lag(group: FoundGroup, now: int) -> Finding:
    subject = "lag"
    behind = {
        number: group.bounds[number][1] - max(place or 0, group.bounds[number][0])
        for number, place in group.committed.items()
    }
    if not group.oldest_at:
        return ok(subject, "everything in the log is committed")
    worst = sorted(group.oldest_at, key=lambda number: (group.oldest_at[number], number))[:_SHOWN]
    age = max(now - group.oldest_at[worst[0]], 0)
    owners = {number: member.host for member in group.members for number in member.partitions}
    places = ", ".join(
        f"{number} ({behind[number]:,} records, {'at ' + owners[number] if number in owners else 'nobody has it'})"
        for number in worst
    )
    found = f"{sum(behind.values()):,} offsets, the oldest record {age // 1000} s old; partition {places}"
    if age <= STALE_MILLISECONDS:
        return ok(subject, found)
    remedy = "look at the log and the metrics of the worker there; one that stands still: end it, and start it again"
    return (failure if age > STUCK_MILLISECONDS else warning)(subject, found, remedy)


def judge_access(
    needed: Sequence[Permission], allowed: Mapping[tuple[str, str], frozenset[str]]
) -> list[Finding]:
    """Judge what our own login may do, against what each role needs.

    `allowed` has operations, in Kafka's words, by what was asked about: ("topic" or "group", name). Of what is not in
    it nothing is known. Roles that a login has little of are none of its business.
    """
    lacking: dict[str, list[str]] = defaultdict(list)
    asked: dict[str, int] = defaultdict(int)
    for permission in needed:
        for (resource, name), operations in allowed.items():
            if resource != permission.resource or not _covers(permission, name):
                continue
            asked[permission.role] += len(permission.operations)
            lacking[permission.role] += [
                f"{operation} on {resource} {name}"
                for operation in permission.operations
                if operation not in operations
            ]
    roles = [role for role in asked if not lacking[role]]
    findings = [
        warning(
            "access",
            f"as {role} this login lacks {', '.join(lacking[role][:_SHOWN])}"
            + (" and more" if len(lacking[role]) > _SHOWN else ""),
            "`msgmeter acls` lists the calls that grant it; nothing to do where it is not meant for that role",
        )
        for role in asked
        if 0 < len(lacking[role]) * _NEARLY <= asked[role]
    ]
    if roles:
        return [ok("access", f"this login may do all that is needed as {', '.join(roles)}"), *findings]
    return findings or [
        failure(
            "access", "this login may do what no role needs", "`msgmeter acls` lists the calls that grant it"
        )
    ]


def _covers(permission: Permission, name: str) -> bool:
    if permission.is_prefix:
        return any(name.startswith(prefix) for prefix in permission.names)
    return name in permission.names


def _listed(noun: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{noun}{'s' if numbers[1:] else ''} {shown}{more}"
