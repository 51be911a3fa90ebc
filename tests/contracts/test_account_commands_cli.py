"""`msgmeter account …` and `packages` through a broker: what is sent, and what is shown of the answer."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from click.testing import CliRunner, Result
from clickhouse_rows import columns_of
from confluent_kafka import Producer, TopicPartition
from log_topics import PARTITIONS, ends, read_since, reader

from pipeline.cli import main
from pipeline.cli.refusal_meanings import MEANINGS, explained
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS
from pipeline.core.instructions import Command
from pipeline.core.partitions import partition_of
from pipeline.core.refusals import Refusal
from pipeline.core.signing import SIGNATURE_HEADER, header, is_signed
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.settings import Settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_RAW

AT = 1_770_113_700_000
UNTIL = "2030-01-01T00:00:00+03:00"
UNTIL_AT = 1_893_445_200_000

Run = Callable[..., Result]


class AnsweringWorker:
    """Answers the next commands of a tenant as a worker would, through the broker."""

    def __init__(self, settings: Settings, tenant: str, count: int = 1, **answer: Any) -> None:
        self._settings, self._tenant, self._count, self._answer = settings, tenant, count, answer
        self._partition = partition_of(tenant.encode(), PARTITIONS)
        self._start = ends(settings, MESSAGES_RAW)[self._partition]
        self.commands: list[dict[str, Any]] = []
        self.headers: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=self._answer_all, daemon=True)

    @property
    def command(self) -> dict[str, Any]:
        """The one that was sent."""
        (command,) = self.commands
        return command

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _answer_all(self) -> None:
        consumer = reader(self._settings)
        consumer.assign([TopicPartition(MESSAGES_RAW, self._partition, self._start)])
        producer = Producer({"bootstrap.servers": self._settings.kafka, "log_level": 2})
        for _ in range(self._count):
            message = consumer.poll(20)
            assert message is not None
            command, self.headers = orjson.loads(message.value()), message.headers()
            self.commands.append(command)
            result = {
                "command_id": command["id"],
                "tenant": self._tenant,
                "type": command["type"],
                "outcome": "accepted",
                "reason": None,
                "balance": "5",
                "effective_at": command["effective_at"],
                "partition": message.partition(),
                "offset": message.offset(),
                **self._answer,
            }
            # Answers to others and to earlier commands come first.
            for other in ({"command_id": "other"}, {"tenant": "other"}, {}):
                producer.produce(ACCOUNT_RESULTS, orjson.dumps(result | other), self._tenant, self._partition)
        consumer.close()
        producer.flush(10)


SENT = [
    (
        ("grant", "t", "5", "--kind", "promotion", "--priority", "7"),
        {"type": "grant", "credits": "5", "kind": "promotion", "priority": 7, "expires_at": None, "cost": "0"},
    ),
    (("grant", "t", "5", "--expires-at", UNTIL), {"expires_at": UNTIL_AT}),
    (
        ("grant", "t", "5", "--valid-months", "24", "--extended", "--cost", "0.5", "--currency", "USD"),
        {"valid_months": 24, "is_extended": True, "cost": "0.5", "currency": "USD"},
    ),
    (
        ("purchase", "t", "credits-500", "--catalogue", "standard"),
        {
            "type": "grant", "credits": "500", "kind": "purchase", "valid_months": 24, "is_extended": True,
            "cost": "25", "currency": "EUR", "package": "credits-500",
        },
    ),
    (
        ("purchase", "t", "block-1000", "--catalogue", "blocks"),
        {
            "type": "grant", "credits": "1000", "valid_months": None, "is_extended": False, "cost": "10",
            "currency": "USD", "package": "block-1000",
        },
    ),
    (("tick", "t", "--effective-at", AT), {"type": "tick", "effective_at": AT}),
    (("plan", "set", "t", "--preset", "starter"), {"type": "set_plan"}),
    (("void", "t", "purchase:1"), {"type": "void_grant", "grant": "purchase:1"}),
    (("adjust", "t", "-12.5"), {"type": "adjust", "credits": "-12.5"}),
    (("adjust", "t", "3"), {"type": "adjust", "credits": "3"}),
    (("allocate", "t", "news", "0"), {"type": "allocate", "list": "news", "credits": "0"}),
    (("allocate", "t", "news", "--free"), {"type": "allocate", "list": "news", "credits": None}),
    (
        ("reserve", "t", "40", "--until", UNTIL, "--campaign", "may", "--list", "news"),
        {"type": "reserve", "credits": "40", "expires_at": UNTIL_AT, "campaign": "may", "list": "news"},
    ),
    (("commit", "t", "r-1", "2"), {"type": "commit_reservation", "reservation": "r-1", "credits": "2"}),
    (("release", "t", "r-1"), {"type": "release_reservation", "reservation": "r-1", "credits": None}),
    (("release", "t", "r-1", "2"), {"credits": "2"}),
    (("recharge", "confirm", "t", "x-1"), {"type": "confirm_recharge", "recharge": "x-1"}),
    (("recharge", "decline", "t", "x-1"), {"type": "decline_recharge", "recharge": "x-1"}),
    (
        ("contacts", "mark", "t", "inactive", "+14155550100", "a@b.example"),
        {"type": "mark_contacts", "state": "inactive", "contacts": ["+14155550100", "a@b.example"]},
    ),
    (("organization", "t", "north"), {"type": "set_organization", "organization": "north"}),
    (("organization", "t", "--none"), {"organization": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "fields"), SENT)
def test_command_is_signed_sent_and_its_result_printed(
    settings: Settings, run: Run, arguments: tuple[object, ...], fields: dict[str, Any]
) -> None:
    with AnsweringWorker(settings, "t") as worker:
        result = run("account", *arguments, "--json", "--id", "command-1")
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout)["command_id"] == worker.command["id"] == "command-1"
    assert orjson.loads(result.stdout)["balance"] == "5"
    assert {name: worker.command[name] for name in fields} == fields
    signature = header(worker.headers, SIGNATURE_HEADER)
    value = orjson.dumps(worker.command)
    assert is_signed(settings.command_key.encode(), "command", b"t", value, signature)


def test_there_is_a_subcommand_for_every_type_of_command() -> None:
    sent = {fields["type"] for _, fields in SENT if "type" in fields} | {"authorise"}
    assert sent == {each.__struct_config__.tag for each in Command.__args__}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("plan", "set", "t"), "either --preset or --file"),
        (("plan", "set", "t", "--preset", "starter", "--zone", "Mars/Base"), "Mars/Base"),
        (("grant", "", "5"), "field_invalid"),
        (("grant", "t", "1e3"), "is not an amount of credits"),
        (("grant", "t", "0"), "is not above zero"),
        (("grant", "t", "-5"), "-5 is below zero"),
        (("grant", "t", "5", "--cost", "3"), "--cost needs a --currency"),
        (("grant", "t", "5", "--expires-at", UNTIL, "--valid-months", "3"), "either --expires-at or"),
        (("adjust", "t", "0.0"), "0.0 is zero"),
        (("allocate", "t", "news"), "either CREDITS or --free"),
        (("allocate", "t", "news", "5", "--free"), "either CREDITS or --free"),
        (("reserve", "t", "5"), "--until"),
        (("organization", "t"), "either ORGANIZATION or --none"),
        (("contacts", "mark", "t", "inactive"), "Give addresses"),
        (("purchase", "t", "gold", "--catalogue", "blocks"), "no package 'gold': there are block-500, block-1000"),
        (("authorise", "t"), "Give what is to be sent"),
        (("authorise", "t", "many"), "'many' is not COUNT[xCOUNTRY]"),
        (("authorise", "t", "5xUK"), "'UK' in '5xUK' is no country that numbers are of: the United Kingdom is GB"),
        (("authorise", "t", "5xZZ"), "'ZZ' in '5xZZ' is no country that numbers are of: write ISO 3166-1"),
        (("authorise", "t", "5xUS:fax"), "'5xUS:fax' is not COUNT"),
        (("authorise", "t", "0xUS"), "field_invalid"),
        (("authorise", "t", "5xUS", "--segments", "2", "--body", "x"), "either --segments or --body"),
    ],
)  # fmt: skip
def test_wrong_calls_are_explained_before_anything_is_sent(
    settings: Settings, run: Run, arguments: tuple[object, ...], text: str
) -> None:
    before = ends(settings, MESSAGES_RAW)
    result = run("account", *arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert ends(settings, MESSAGES_RAW) == before


def test_plan_from_a_file_with_changes_is_sent_whole(settings: Settings, run: Run, tmp_path: Path) -> None:
    plan = {"name": "own", "zone": "UTC", "anchor_day": 5, "allowance_credits": "1", "rate_card": "standard"}
    (tmp_path / "plan.json").write_bytes(orjson.dumps(plan))
    changes = ("--allowance", "2.5", "--zone", "Asia/Kathmandu")
    with AnsweringWorker(settings, "t") as worker:
        run("account", "plan", "set", "t", "--file", tmp_path / "plan.json", *changes)
    expected = {**plan, "allowance_credits": "2.5", "zone": "Asia/Kathmandu"}
    assert worker.command["plan"].items() >= expected.items()


def test_accepted_command_is_shown_with_what_else_its_result_says(settings: Settings, run: Run) -> None:
    details = {"grant": "purchase:1", "expires_at": 1_893_456_000_000}
    with AnsweringWorker(settings, "t", balance="-1234.5", details=details):
        result = run("account", "grant", "t", "5")
    assert result.stdout.splitlines() == [
        "grant for t accepted, balance -1,234.5",
        "grant       purchase:1              ",
        "expires at  2030-01-01T00:00:00.000Z",
    ]


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ({"expires_at": None}, "expires at  never"),
        ({"available": "1234567.5"}, "available  1,234,567.5"),
        ({"contacts": 3}, "contacts  3"),
    ],
)
def test_details_are_written_for_people(
    settings: Settings, run: Run, details: dict[str, Any], line: str
) -> None:
    with AnsweringWorker(settings, "t", details=details):
        assert line in run("account", "tick", "t").stdout.splitlines()


def test_refused_command_is_shown_with_its_reason(settings: Settings, run: Run) -> None:
    with AnsweringWorker(settings, "t", outcome="refused", reason="amount_invalid", balance="0"):
        result = run("account", "grant", "t", "5")
    assert result.exit_code == 1
    assert result.stdout == f"grant for t refused: {explained('amount_invalid')}\nbalance 0\n"


def test_a_conflict_says_that_the_instant_belongs_to_the_command(settings: Settings, run: Run) -> None:
    with AnsweringWorker(settings, "t", outcome="refused", reason="command_conflict"):
        result = run("account", "grant", "t", "5", "--id", "1")
    assert result.exit_code == 1
    assert "with another content, of which `effective_at` is a part." in result.stdout
    assert "give the --effective-at of its first time as well as its --id" in result.stdout


def test_an_id_of_ones_own_is_told_with_the_instant_that_a_repetition_needs(
    settings: Settings, run: Run
) -> None:
    with AnsweringWorker(settings, "t") as worker:
        first = run("account", "grant", "t", "5", "--id", "1")
    options = first.stderr.strip().removeprefix("To repeat it exactly: ").split()
    with AnsweringWorker(settings, "t") as again:
        second = run("account", "grant", "t", "5", *options)
    assert again.command == worker.command
    assert second.stderr == "", "who names the instant knows it"


def test_no_answer_in_time_says_how_to_ask_again(run: Run) -> None:
    result = run("account", "grant", "nobody", "5", "--wait-seconds", "0.2", "--id", "again")
    assert result.exit_code == 3
    assert "--id again --effective-at " in result.stderr
    assert result.stdout == ""


def test_no_wait_returns_once_the_broker_has_the_command(settings: Settings, run: Run) -> None:
    starts = ends(settings, MESSAGES_RAW)
    result = run("account", "tick", "t", "--no-wait", "--json")
    (message,) = read_since(settings, MESSAGES_RAW, starts)
    assert orjson.loads(result.stdout)["command_id"] == orjson.loads(message.value())["id"]


def test_contacts_of_a_file_are_marked_a_thousand_at_a_time(
    settings: Settings, run: Run, tmp_path: Path
) -> None:
    numbers = [f"+1415555{number:04d}" for number in range(2_001)]
    (tmp_path / "contacts.txt").write_text("\n".join([" +14150000000 ", "", *numbers]) + "\n")
    with AnsweringWorker(settings, "t", 3) as worker:
        result = run(
            "account", "contacts", "mark", "t", "inactive", "--id", "m", "--file", tmp_path / "contacts.txt"
        )
    assert result.exit_code == 0, result.output
    assert [(each["id"], len(each["contacts"])) for each in worker.commands] == [
        ("m-1", 1000),
        ("m-2", 1000),
        ("m-3", 2),
    ]
    assert len({each["effective_at"] for each in worker.commands}) == 1
    assert [each for part in worker.commands for each in part["contacts"]] == ["+14150000000", *numbers]
    assert result.stdout == "2,002 contacts of t marked inactive by 3 commands\n"


def test_answers_that_are_missing_among_several_are_counted(
    settings: Settings, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "contacts.txt").write_text("+14155550100\n" * 1_001)
    arguments = ("contacts", "mark", "t", "active", "--file", tmp_path / "contacts.txt")
    with AnsweringWorker(settings, "t", 1):
        result = run("account", *arguments, "--wait-seconds", "3")
    assert result.exit_code == 3
    assert "No answer to 1 of 2 commands in 3 s." in result.stderr


def test_a_refusal_among_several_is_shown(settings: Settings, run: Run, tmp_path: Path) -> None:
    (tmp_path / "contacts.txt").write_text("+14155550100\n" * 1_001)
    with AnsweringWorker(settings, "t", 2, outcome="refused", reason="tenant_unknown"):
        result = run("account", "contacts", "mark", "t", "active", "--file", tmp_path / "contacts.txt")
    assert result.exit_code == 1
    assert result.stdout.count("refused: tenant_unknown: The tenant has no plan") == 2


# The question before a campaign.


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (
            ("5000xUS", "200xDE:mms", "7:email", "1xFR:sms:night"),
            {
                "sendings": [
                    {"count": 5000, "country": "US", "kind": "sms", "category": ""},
                    {"count": 200, "country": "DE", "kind": "mms", "category": ""},
                    {"count": 7, "country": "", "kind": "email", "category": ""},
                    {"count": 1, "country": "FR", "kind": "sms", "category": "night"},
                ],
                "recipients": [],
                "body": None,
                "reserve_until": None,
            },
        ),
        (
            ("5xUS", "--segments", "3"),
            {"sendings": [{"count": 5, "country": "US", "kind": "sms", "category": "", "segments": 3}]},
        ),
        (
            ("--to", "+14155550100", "--to", "+905551112233", "--body", "Hi", "--kind", "mms", "--category", "x"),
            {"recipients": ["+14155550100", "+905551112233"], "body": "Hi", "kind": "mms", "category": "x"},
        ),
        (
            ("5", "--list", "news", "--campaign", "may", "--reserve-until", UNTIL),
            {"list": "news", "campaign": "may", "reserve_until": UNTIL_AT},
        ),
    ],
)  # fmt: skip
def test_what_is_to_be_sent_is_asked_as_one_command(
    settings: Settings, run: Run, arguments: Sequence[str], fields: dict[str, Any]
) -> None:
    with AnsweringWorker(settings, "t", details={"decision": "allow"}) as worker:
        result = run("account", "authorise", "t", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert {name: worker.command[name] for name in fields} == fields


def test_recipients_may_come_from_a_file(settings: Settings, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("+905551112233\n\n +4915112345678\n")
    with AnsweringWorker(settings, "t", details={"decision": "allow"}) as worker:
        run("account", "authorise", "t", "--to", "+14155550100", "--to-file", file, "--json")
    assert worker.command["recipients"] == ["+14155550100", "+905551112233", "+4915112345678"]
    file.write_text("+14155550100\n" * 10_001)
    result = run("account", "authorise", "t", "--to-file", file)
    assert result.exit_code == 2
    assert "10,001 recipients are more than 10,000" in result.stderr
    file.write_bytes(b"\xff")
    assert "is no text in UTF-8" in run("account", "authorise", "t", "--to-file", file).stderr


ANSWER = {
    "decision": "partial", "reason": "credits_insufficient", "requested": 5000, "allowed": 4500, "segments": 1,
    "cost": "4500", "cost_requested": "5000", "remaining": "0", "alerts": [80, 95], "reservation": "a-1",
    "extended": 2,
}  # fmt: skip


def test_an_answer_says_what_a_person_composing_wants_to_know(settings: Settings, run: Run) -> None:
    with AnsweringWorker(settings, "t", details=ANSWER):
        result = run("account", "authorise", "t", "5000xUS", "--body", "Hi", "--reserve-until", UNTIL)
    assert result.exit_code == 1, "not all are allowed"
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "t may send some of them",
        "",
        "allowed       4,500 of 5,000",
        "not more for  credits_insufficient: The credits that are available cover no more.",
        "segments      1 each",
        "cost          4,500; 5,000 for all",
        "would remain  0",
        "alerts        80 %, 95 %",
        "reserved      until 2029-12-31T21:00:00.000Z as a-1",
        "extended      2 reservations of the campaign, until 2029-12-31T21:00:00.000Z",
    ]


@pytest.mark.parametrize(
    ("reason", "options", "line"),
    [
        ("list_exhausted", ("--list", "news"), "list_exhausted: What the list may spend covers no more."),
        ("list_exhausted", (), "list_exhausted: The rest of the credits is assigned to lists"),
        ("quota_exhausted", (), "quota_exhausted: The plan includes no more of this kind in the period."),
        ("plan_ended", (), "plan_ended: The plan has ended."),
        ("of_a_newer_worker", (), "of_a_newer_worker"),
    ],
)
def test_why_not_more_is_explained(
    settings: Settings, run: Run, reason: str, options: Sequence[str], line: str
) -> None:
    with AnsweringWorker(settings, "t", details=ANSWER | {"reason": reason}):
        result = run("account", "authorise", "t", "5000xUS", *options)
    assert f"not more for  {line}" in result.stdout


def test_all_allowed_is_exit_code_0_and_nothing_is_said_of_what_does_not_apply(
    settings: Settings, run: Run
) -> None:
    whole = {"decision": "allow", "reason": None, "requested": 2, "allowed": 2, "segments": None,
             "cost": "2", "cost_requested": "2", "remaining": "1.5", "alerts": []}  # fmt: skip
    with AnsweringWorker(settings, "t", details=whole):
        result = run("account", "authorise", "t", "2xUS")
    assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "t may send all of them", "", "allowed       2 of 2", "cost          2", "would remain  1.5",
        "alerts        none would fire",
    ]  # fmt: skip


@pytest.mark.parametrize("reason", Refusal)
def test_every_refusal_is_explained(reason: Refusal) -> None:
    assert explained(reason.value) == f"{reason.value}: {MEANINGS[reason]}"


def test_refusals_are_explained_in_the_order_of_the_checks() -> None:
    assert list(MEANINGS) == list(Refusal)


# Packages.


def test_packages_are_listed_with_price_and_validity() -> None:
    result = CliRunner().invoke(main, ["packages", "list", "blocks"])
    assert [line.split() for line in result.stdout.splitlines()[2:]] == [
        ["blocks", "block-500", "Block", "of", "500", "500", "5.00", "USD", "never", "ends"],
        ["blocks", "block-1000", "Block", "of", "1", "000", "1,000", "10.00", "USD", "never", "ends"],
    ]
    both = orjson.loads(CliRunner().invoke(main, ["packages", "list", "--json"]).stdout)
    assert [each["id"] for each in both["catalogues"]] == ["blocks", "standard"]
    assert both["catalogues"][1]["packages"][0] == {
        "id": "credits-500", "name": "500 credits", "credits": "500", "price": "25", "valid_months": 24,
        "is_extended": True,
    }  # fmt: skip


def test_reach_is_told_by_country_at_the_prices_of_a_plan() -> None:
    def told(*options: str) -> dict[str | None, int]:
        result = CliRunner().invoke(main, ["packages", "reach", "block-1000", "--json", *options])
        return {each["country"]: each["messages"] for each in orjson.loads(result.stdout)["reach"]}

    card, plan = told(), told("--plan", "kind_credits")
    assert (card["US"], card["DE"], card["AE"], card[None]) == (1000, 357, 363, 500)
    assert (plan["US"], plan["DE"], plan[None]) == (1000, 500, 500)
    table = CliRunner().invoke(main, ["packages", "reach", "block-1000"]).stdout
    assert "DE                2.80     357" in table
    assert table.splitlines()[0] == "Block of 1 000 for 10 USD, at the prices of rate card standard"
    assert table.splitlines()[-1].split() == ["others", "2.00", "500"]


PROMOTION = "promotion:268bd474-0c1e-4c43-8b1a-7f5d2f1f0e11"
GRANTS = (
    "allowance:1",
    PROMOTION,
    "purchase:credits-500-1",
    "purchase:credits-500-12",
    "adjustment:1",
    "promotion:1",
)


@pytest.fixture
def stored(clickhouse: EmbeddedClickHouse, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts of tenants, each named after its plan."""
    url = f"{clickhouse.url}/{database}"
    client = connect(url)
    apply_migrations(client)
    details = {"country_credits": "standard", "starter": "", "own": "blocks"}
    grants = orjson.dumps([{"id": each} for each in GRANTS]).decode()
    rows = [
        {
            "tenant": name,
            "plan": name,
            "grants": grants,
            "details": orjson.dumps({"plan": {"catalogue": catalogue}}).decode(),
        }
        for name, catalogue in details.items()
    ]
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, *rows), "accounts")
    client.close()
    monkeypatch.setenv("MSGMETER_CLICKHOUSE", url)


@pytest.mark.usefixtures("stored")
def test_a_tenant_buys_from_the_catalogue_of_its_plan(settings: Settings, run: Run) -> None:
    with AnsweringWorker(settings, "country_credits") as worker:
        result = run("account", "purchase", "country_credits", "credits-500")
    assert result.exit_code == 0, result.output
    assert worker.command["package"] == "credits-500"
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[1:] == ["package credits-500 of standard", "credits 500", "price 25.00 EUR"]
    other = run("account", "purchase", "country_credits", "block-500")
    assert other.exit_code == 2
    assert "no package 'block-500': there are credits-500" in " ".join(other.stderr.split())


@pytest.mark.parametrize(
    ("tenant", "exit_code", "text"),
    [
        ("starter", 2, "Plan 'starter' of starter names no catalogue: give --catalogue"),
        ("nobody", 1, "no account of tenant 'nobody' is stored yet"),
        ("nobody", 1, "every 10 s by default: try again. Or give --catalogue, such as --catalogue blocks,"),
    ],
)
@pytest.mark.usefixtures("stored")
def test_where_no_catalogue_is_known_one_is_asked_for(
    run: Run, tenant: str, exit_code: int, text: str
) -> None:
    result = run("account", "purchase", tenant, "block-500")
    assert result.exit_code == exit_code
    assert text in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("shown", "sent"),
    [
        ("promotion 268bd474", PROMOTION),
        ("promotion:268bd474", PROMOTION),
        ("268bd474", PROMOTION),
        (PROMOTION, PROMOTION),
        (PROMOTION.removeprefix("promotion:"), PROMOTION),
        ("credits-500-1", "purchase:credits-500-1"),
        ("purchase:credits-500", "purchase:credits-500"),
        ("allowance 1970-01-01", "allowance 1970-01-01"),
        ("purchase:unknown", "purchase:unknown"),
    ],
)
@pytest.mark.usefixtures("stored")
def test_void_takes_what_balance_shows_and_completes_nothing(
    settings: Settings, run: Run, shown: str, sent: str
) -> None:
    """A grant that is gone must not be taken for one whose id goes on where its own ended."""
    with AnsweringWorker(settings, "own") as worker:
        result = run("account", "void", "own", shown)
    assert worker.command["grant"] == sent
    assert sent in result.stdout


@pytest.mark.usefixtures("stored")
def test_void_does_not_choose_among_grants_of_one_name(run: Run) -> None:
    result = run("account", "void", "own", "1")
    assert result.exit_code == 2
    assert "'1' may be adjustment:1 or promotion:1: give one of these" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("stored")
def test_reach_is_told_at_the_prices_of_a_tenants_plan(run: Run) -> None:
    result = run("packages", "reach", "block-500", "--tenant", "starter")
    assert result.stdout.splitlines()[0] == "Block of 500 for 5 USD, at the prices of plan starter"
    unknown = run("packages", "reach", "block-500", "--tenant", "own")
    assert unknown.exit_code == 2
    assert "Plan 'own' of own is none of" in " ".join(unknown.stderr.split())
