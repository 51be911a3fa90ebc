"""The Kafka topics, with every partition count and config that the guarantees lean on.

Takes settings; gives the list of topics, and creates those that are missing. Never alters or deletes one: a
topic that is there but differs is an error which names every difference, because partitions cannot be taken
back and a changelog compacted too early cannot be mended afterwards.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic, sleep

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from pipeline.errors import MsgmeterError
from pipeline.kafka_clients import METADATA_SECONDS, Connection
from pipeline.settings import Settings

MESSAGES_RAW = "messages.raw"
ACCOUNT_RESULTS = "account.results"
ACCOUNT_RECHARGES = "account.recharges"
USAGE_ALERTS = "usage.alerts"
MESSAGES_REFUSED = "messages.refused"

_log = logging.getLogger(__name__)

_DAY_MILLISECONDS = 86_400_000
_MEBIBYTE = 1 << 20
_COMPACTION_LAG = "min.compaction.lag.ms"
_TOMBSTONES_LIVE = "delete.retention.ms"
_IN_SYNC = "min.insync.replicas"
_AT_LEAST = (_COMPACTION_LAG, _TOMBSTONES_LIVE, _IN_SYNC)
"""Of these more is as good: compaction may come later, tombstones may live longer, more replicas may be asked."""
LEANED_ON = ("cleanup.policy", "message.timestamp.type", "unclean.leader.election.enable", *_AT_LEAST)
"""Without these a worker would break its promises and not notice."""
_REQUEST_SECONDS = 30.0


class TopicError(MsgmeterError):
    """Topics exist with other partitions or configs than this version needs, or could not be created."""


@dataclass(frozen=True)
class Topic:
    """One topic as it must be; `config` holds what is checked, in Kafka's own words."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def changelog_names(application: str) -> tuple[str, str, str]:
    """The changelogs of the tables accounts, windows and ids, named as Faust names them."""
    return (
        f"{application}-accounts-changelog",
        f"{application}-windows-changelog",
        f"{application}-ids-changelog",
    )


def topics(settings: Settings) -> list[Topic]:
    """Every topic of a deployment; all have one partition count, because tables must match their source."""
    # One replica may fail without stopping writes, and what was acknowledged is in two places.
    insync = {
        _IN_SYNC: str(min(2, settings.replication)),
        # A replica that lacks acknowledged records waits for one that has them, whatever the brokers' default.
        "unclean.leader.election.enable": "false",
    }
    raw = {
        "cleanup.policy": "delete",
        # Append time is the only clock the meter has; a gateway's own time would make "late" its choice.
        "message.timestamp.type": "LogAppendTime",
        # Values above 1 MiB are refused by us, with a record of it, so the broker has to take them.
        "max.message.bytes": str(2 * _MEBIBYTE),
        # The longest replay we promise; a refused record is retried from here too.
        "retention.ms": str(14 * _DAY_MILLISECONDS),
        "retention.bytes": "-1",
        **insync,
    }
    answers = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MILLISECONDS), **insync}
    return [
        Topic(name, settings.partitions, settings.replication, config)
        for name, config in (
            (MESSAGES_RAW, raw),
            (ACCOUNT_RESULTS, answers),
            (ACCOUNT_RECHARGES, answers),
            (USAGE_ALERTS, answers),
            (MESSAGES_REFUSED, answers),
            *((name, _changelog(settings) | insync) for name in changelog_names(settings.application)),
        )
    ]


def _changelog(settings: Settings) -> dict[str, str]:
    return {
        "cleanup.policy": "compact",
        # A worker that was paused past its session may append old values when it wakes. Recovery takes the
        # highest version of a key, so both must still be there: compaction keeps away from anything younger
        # than the longest time a worker may hold a partition without writing.
        _COMPACTION_LAG: str(compaction_lag_milliseconds(settings)),
        # Rolled and cleaned often enough that recovery reads little more than the live values.
        "segment.ms": str(_DAY_MILLISECONDS // 4),
        "segment.bytes": str(64 * _MEBIBYTE),
        "min.cleanable.dirty.ratio": "0.2",
        # A deleted key's tombstone outlives a worker that reads slowly.
        _TOMBSTONES_LIVE: str(7 * _DAY_MILLISECONDS),
        "max.message.bytes": str(8 * _MEBIBYTE),
    }


def compaction_lag_milliseconds(settings: Settings) -> int:
    """How long both a newer value and an older one appended behind it are certainly in a changelog."""
    return max(2 * settings.outage_minutes * 60_000, _DAY_MILLISECONDS)


def check_partitions(settings: Settings) -> None:
    """Raises TopicError where messages.raw has other partitions than the settings say.

    A worker with another count would look for tenants where they do not live. Raises Transient where no broker
    answers, and Permanent where it refuses us or the topic is missing.
    """
    connection = Connection(settings)
    found = connection.topic_partitions(AdminClient(connection.configuration()), MESSAGES_RAW)
    if found != settings.partitions:
        raise TopicError(
            f"{MESSAGES_RAW} has {found} partitions, but MSGMETER_PARTITIONS is {settings.partitions}:"
            f" set it to {found}"
        )


def check_topics(settings: Settings) -> None:
    """Raises as `check_partitions` does, and TopicError where a worker's guarantees would not hold.

    A log that keeps the gateways' times, a changelog that is deleted or compacted too early, and a topic that takes
    fewer replicas or a leader that lacks records, lose what is promised without anybody noticing.
    """
    check_partitions(settings)
    connection = Connection(settings)
    admin = AdminClient(connection.configuration())
    names = (MESSAGES_RAW, *changelog_names(settings.application))
    for name in names:
        found = connection.topic_partitions(admin, name)
        if found != settings.partitions:
            raise TopicError(
                f"{MESSAGES_RAW} has {settings.partitions} partitions, but {name} has {found}: partitions were added"
                " without `msgmeter repartition`"
            )
    leaned_on = [
        replace(topic, config={name: topic.config[name] for name in LEANED_ON if name in topic.config})
        for topic in topics(settings)
        if topic.name in names
    ]
    try:
        faults = _config_faults(admin, leaned_on)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise TopicError(f"The topics' configs cannot be read: {error.args[0].str()}") from error
        _log.warning("the topics' configs were not checked, because this user may not describe them")
        return
    if faults:
        raise TopicError(
            "Topics differ from what the guarantees lean on; `msgmeter migrate` made them otherwise:\n"
            + _listed(faults)
        )


def state_partitions(settings: Settings) -> int:
    """The number of partitions of the state; raises as `check_partitions` does."""
    connection = Connection(settings)
    accounts, _, _ = changelog_names(settings.application)
    return connection.topic_partitions(AdminClient(connection.configuration()), accounts)


def add_partitions(settings: Settings, partitions: int) -> None:
    """Gives every topic but the changelogs so many partitions; those that have them already are left alone."""
    connection = Connection(settings)
    admin = AdminClient(connection.configuration())
    changelogs = changelog_names(settings.application)
    # The log comes first: from then on it tells workers of the count before that they must not run.
    names = [topic.name for topic in topics(settings) if topic.name not in changelogs]
    for name in names:
        if connection.topic_partitions(admin, name) == partitions:
            continue
        [answer] = admin.create_partitions(
            [NewPartitions(name, partitions)], operation_timeout=_REQUEST_SECONDS
        ).values()
        try:
            answer.result(_REQUEST_SECONDS)
        except KafkaException as error:
            raise TopicError(f"{name} got no partitions: {error.args[0].str()}") from error
    end = monotonic() + _REQUEST_SECONDS
    while any(connection.topic_partitions(admin, name) != partitions for name in names):
        if monotonic() > end:
            raise TopicError(f"Partitions were added but are not there after {_REQUEST_SECONDS:.0f} s")
        sleep(0.05)


def create_topics(settings: Settings) -> list[str]:
    """Creates the topics that are missing, waits until they can be used, and gives their names.

    Raises TopicError where one differs or cannot be created, Transient where no broker answers, and Permanent
    where it refuses us. Another may create the same topics meanwhile.
    """
    connection = Connection(settings)
    admin = AdminClient(connection.configuration())
    wanted = topics(settings)
    created: list[str] = []
    end = monotonic() + _REQUEST_SECONDS
    while monotonic() < end:
        there = connection.metadata(admin).topics
        count_by_name = {name: len(topic.partitions) for name, topic in there.items()}
        present = [topic for topic in wanted if topic.name in count_by_name]
        faults = [
            f"{topic.name} has {count_by_name[topic.name]} partitions, not {topic.partitions}"
            for topic in present
            if count_by_name[topic.name] != topic.partitions
        ]
        faults += _config_faults(admin, present)
        if faults:
            raise TopicError(
                "Topics differ from what is needed:\n"
                + _listed(faults)
                + _partitions_remedy(count_by_name.get(MESSAGES_RAW), settings.partitions)
            )
        missing = [topic for topic in wanted if topic.name not in count_by_name]
        if not missing and _are_led(admin, wanted):
            return created
        # Brokers learn of a new topic bit by bit: it exists, later it is listed, later it has leaders.
        created += _create(admin, [topic for topic in missing if topic.name not in created])
        sleep(0.05)
    raise TopicError(f"Topics were created but have no leaders after {_REQUEST_SECONDS:.0f} s")


def _partitions_remedy(found: int | None, wanted: int) -> str:
    """What to do where the log has another number of partitions than the settings say."""
    if found in (None, wanted):
        return ""
    remedy = f"\nset MSGMETER_PARTITIONS to {found}"
    return f"{remedy}, or see `msgmeter repartition`" if wanted > found else remedy


def _are_led(admin: AdminClient, wanted: list[Topic]) -> bool:
    """Whether every partition answers; being listed with a leader is not enough right after creation."""
    asked = {
        TopicPartition(topic.name, partition): OffsetSpec.latest()
        for topic in wanted
        for partition in range(topic.partitions)
    }
    answers = admin.list_offsets(asked, request_timeout=METADATA_SECONDS).values()
    return all(answer.exception(METADATA_SECONDS) is None for answer in answers)


def _config_faults(admin: AdminClient, present: list[Topic]) -> list[str]:
    if not present:
        return []
    resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in present}
    answers = {
        resource.name: future
        for resource, future in admin.describe_configs(
            list(resources.values()), request_timeout=_REQUEST_SECONDS
        ).items()
    }
    return [
        f"{topic.name} has {name}={there}, not {topic.config[name]}"
        for topic in present
        for found in (answers[topic.name].result(_REQUEST_SECONDS),)
        for name, there in config_faults(topic, {key: each.value for key, each in found.items()}).items()
    ]


def config_faults(topic: Topic, found: Mapping[str, str | None]) -> dict[str, str | None]:
    """What a topic has instead of what it must have, by the config's name; None where it does not have it at all."""
    return {
        name: found.get(name)
        for name, needed in topic.config.items()
        if not _is_as_needed(name, found.get(name), needed)
    }


def _is_as_needed(name: str, found: str | None, needed: str) -> bool:
    return found == needed or (name in _AT_LEAST and found is not None and int(found) > int(needed))


def _create(admin: AdminClient, missing: list[Topic]) -> list[str]:
    """Creates topics; gives the names of those that were not there already."""
    if not missing:
        return []
    futures = admin.create_topics(
        [NewTopic(topic.name, topic.partitions, topic.replication, config=topic.config) for topic in missing],
        operation_timeout=_REQUEST_SECONDS,
    )
    created, faults = [], []
    for name, future in futures.items():
        try:
            future.result(_REQUEST_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                faults.append(f"{name}: {error.args[0].str()}")
        else:
            created.append(name)
    if faults:
        raise TopicError("Topics could not be created:\n" + _listed(faults))
    return created


def _listed(faults: list[str]) -> str:
    return "\n".join(f"  - {fault}" for fault in faults)
