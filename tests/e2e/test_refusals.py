"""`msgmeter refusals` tells who sends what is refused, each record once, and nothing of what it says."""

import csv
import io
import time
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from pipeline.cli import main
from pipeline.core.eras import ERA_POSITIONS
from pipeline.core.outcomes import refusal_document
from pipeline.core.partitions import partition_of
from pipeline.core.refusals import Refusal
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_REFUSED
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, environment_of

MINUTE = 60_000
HOME = partition_of(b"acme", 8)


class Refused:
    """Publishes refusals as workers do, at instants of the test's choice."""

    def __init__(self, system: System) -> None:
        self.now = time.time_ns() // 1_000_000
        # The embedded broker stamps records itself, unless a topic says otherwise.
        stamped = ConfigEntry(
            "message.timestamp.type", "CreateTime", incremental_operation=AlterConfigOpType.SET
        )
        topic = ConfigResource(ResourceType.TOPIC, MESSAGES_REFUSED, incremental_configs=[stamped])
        admin = AdminClient({"bootstrap.servers": system.settings.kafka})
        admin.incremental_alter_configs([topic])[topic].result(30)
        self._producer = Producer({"bootstrap.servers": system.settings.kafka})
        self._environment = environment_of(system.settings)

    def add(
        self,
        offset: int,
        reason: Refusal,
        *,
        tenant: str | None = None,
        source: str | None = None,
        minutes_ago: int = 5,
        partition: int = 3,
    ) -> None:
        """One more refusal, of a value that the document does not repeat."""
        document = refusal_document(partition, offset, reason, b"secret", tenant, source, None, self.now)
        self.put(orjson.dumps(document), partition, minutes_ago)

    def put(self, value: bytes, partition: int = 3, minutes_ago: int = 5) -> None:
        """Anything."""
        at = self.now - minutes_ago * MINUTE
        self._producer.produce(MESSAGES_REFUSED, value, partition=partition, timestamp=at)

    def ask(self, *arguments: str) -> Result:
        """What the command answers."""
        assert not self._producer.flush(30)
        environment = self._environment | {"COLUMNS": "160", "TERM": "dumb"}
        done = CliRunner().invoke(main, ["refusals", *arguments], env=environment)
        assert done.exit_code == 0, done.output
        return done

    def groups(self, *arguments: str) -> list[list[Any]]:
        """The groups' keys and counts."""
        document = orjson.loads(self.ask("--output", "json", *arguments).stdout)
        told = {"refused", "share", "first_at", "last_at", "example", "meaning"}
        return [
            [*(each[name] for name in each.keys() - told), each["refused"]] for each in document["groups"]
        ]


def test_refusals_are_counted_once_by_whatever_is_asked_with_times_and_places(
    make_system: MakeSystem,
) -> None:
    system = make_system()
    # So that there is something that they are a share of.
    system.send([LogRecord(b"acme", b"not JSON") for _ in range(10)])
    refused = Refused(system)
    nothing = refused.ask()
    assert nothing.stdout.startswith("0 refused since ")
    for offset in (1, 2, 3):
        refused.add(offset, Refusal.NOT_JSON, source="gateway-tr", minutes_ago=9 - offset)
    # A replay publishes it again; later, so that it must not move the last time either.
    refused.add(2, Refusal.NOT_JSON, source="gateway-tr", minutes_ago=1)
    refused.add(ERA_POSITIONS + 7, Refusal.PLAN_MISSING, tenant="acme", source="gateway-eu", partition=HOME)
    refused.add(5, Refusal.NOT_UTF8)
    refused.add(1, Refusal.NOT_JSON, source="gateway-us", minutes_ago=90, partition=2)
    # Out of order, as another worker may publish behind a younger one.
    refused.add(9, Refusal.NOT_JSON, source="gateway-us", minutes_ago=80)
    refused.put(b"no refusal")
    refused.put(orjson.dumps({"partition": 3, "offset": "x", "reason": []}))

    said = refused.ask("--output", "json")
    assert said.stderr == "2 records of messages.refused are no refusals\n"
    document = orjson.loads(said.stdout)
    assert (document["received"], document["refused"], document["group_count"]) == (10, 5, 3)
    first, *others = document["groups"]
    assert first == {
        "reason": "not_json",
        "source": "gateway-tr",
        "refused": 3,
        "share": 0.6,
        "first_at": stamp(refused.now - 8 * MINUTE),
        "last_at": stamp(refused.now - 6 * MINUTE),
        "example": {"partition": 3, "offset": 3},
        "meaning": "The value is not one JSON object.",
    }
    assert [(each["reason"], each["source"], each["example"]["offset"]) for each in others] == [
        ("not_utf8", None, 5),
        ("plan_missing", "gateway-eu", 7),
    ]
    assert refused.groups("--by", "tenant") == [[None, 4], ["acme", 1]]
    assert refused.groups("--by", "partition", "--since", "2h") == [[3, 5], [2, 1], [HOME, 1]]
    assert refused.groups("--by", "source", "--since", "2h", "--reason", "not_json") == [
        ["gateway-tr", 3],
        ["gateway-us", 2],
    ]
    assert refused.groups("--by", "reason", "--tenant", "acme") == [["plan_missing", 1]]
    assert refused.groups("--by", "reason", "--source", "gateway-eu") == [["plan_missing", 1]]
    # Of gateway-tr's only the one that a replay published since; the others' keys come behind.
    lately = stamp(refused.now - 5 * MINUTE - 1_000)
    assert refused.groups("--by", "reason", "--since", lately, "--limit", "2") == [
        ["not_json", 1],
        ["not_utf8", 1],
    ]

    to_come = orjson.loads(
        refused.ask("--since", stamp(refused.now + 60 * MINUTE), "--output", "json").stdout
    )
    assert (to_come["received"], to_come["refused"], to_come["groups"]) == (0, 0, [])

    table = refused.ask("--limit", "2").stdout
    assert "5 refused since " in table
    assert ", 50.0 % of some 10 that came in" in table
    assert "1 more groups" in table
    assert "partition 3 offset 3" in table
    assert "The value is not one JSON object." in table
    assert "unknown" in table
    rows = list(csv.reader(io.StringIO(refused.ask("--output", "csv", "--by", "source").stdout)))
    assert rows[0] == ["source", "refused", "first_at", "last_at", "example_partition", "example_offset"]
    assert [row[:2] for row in rows[1:]] == [["gateway-tr", "3"], ["gateway-eu", "1"], ["", "1"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "90"], "90 of what?"),
        (["--since", "yesterday"], "not an instant"),
        (["--by", "reason,body"], "not one or more of reason,tenant,source,partition"),
        (["--by", "reason,reason"], "each once"),
        (["--reason", "bad"], "is not one of"),
    ],
)
def test_a_wrong_call_of_refusals_says_what_to_write(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["refusals", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr


def stamp(at: int) -> str:
    """An instant as the command writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at // 1000))
