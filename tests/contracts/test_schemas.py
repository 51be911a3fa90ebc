"""schemas/ says what the structs and the folds say, and each example means what its name says."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.core.account import Answer, Period
from pipeline.core.commands import _result
from pipeline.core.instructions import Command
from pipeline.core.outcomes import alert_document, refusal_document
from pipeline.core.process import PartitionFold
from pipeline.core.records import Message, decode_command, decode_message
from pipeline.core.refusals import Refusal
from tests.builders import HOUR, Log, plan, rules, run

SCHEMAS = Path(__file__).parents[2] / "schemas"
NAMES = sorted(path.stem for path in SCHEMAS.glob("*.json"))
EXAMPLES = sorted((SCHEMAS / "examples").glob("*/*.json"))
DECODERS = {"message.v1": decode_message, "command.v1": decode_command}

# What may differ between a schema made for people and one made from a struct.
WORDS_FOR_PEOPLE = {"$schema", "$id", "title", "description", "format"}


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def meaning(node: Any) -> Any:
    """The schema without words for people, with everything unordered sorted, and plain instants."""
    if isinstance(node, list | tuple):
        return [meaning(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: meaning(value) for key, value in node.items() if key not in WORDS_FOR_PEOPLE}
    if "properties" in node:  # Here the keys are fields, not words of JSON Schema.
        kept["properties"] = {name: meaning(value) for name, value in node["properties"].items()}
    for key in ("enum", "required"):
        if key in kept:
            kept[key] = sorted(kept[key])
    if node.get("format") == "date-time":
        kept.pop("pattern", None)  # msgspec checks the form of an instant itself.
    return kept


def struct_schema(struct: Any) -> Any:
    made = msgspec.json.schema(struct)
    root = made.pop("$ref", None)
    if root:
        made = made["$defs"][root.removeprefix("#/$defs/")]
    return meaning(made)


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_valid_json_schema_2020_12(name: str) -> None:
    document = schema(name)
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$id"] == f"urn:msgmeter:schema:{name}"


def test_message_schema_equals_the_struct() -> None:
    assert meaning(schema("message.v1")) == struct_schema(Message)


def test_command_schema_equals_the_structs() -> None:
    assert meaning(schema("command.v1")) == struct_schema(Command)


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_has_valid_and_invalid_examples(name: str) -> None:
    for folder in ("valid", "invalid"):
        assert list((SCHEMAS / "examples" / folder).glob(f"{name}.*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_example_is_judged_alike_by_schema_and_decoder(path: Path) -> None:
    name = next(name for name in NAMES if path.name.startswith(name + "."))
    value = path.read_bytes()
    is_valid = path.parent.name == "valid"
    assert Draft202012Validator(schema(name)).is_valid(json.loads(value)) is is_valid
    if name in DECODERS:
        assert isinstance(DECODERS[name](value), Refusal) is not is_valid


@pytest.mark.parametrize("name", ["refusal.v1", "result.v1"])
def test_reasons_are_those_of_the_closed_list(name: str) -> None:
    reason = schema(name)["properties"]["reason"]
    words = reason["enum"] if "enum" in reason else reason["anyOf"][0]["enum"]
    assert words == [reason.value for reason in Refusal]


def assert_document(name: str, document: dict[str, Any]) -> None:
    """A document of ours has the schema's fields in their order: all that are required, and no other."""
    written = json.loads(orjson.dumps(document))
    Draft202012Validator(schema(name)).validate(written)
    fields = list(schema(name)["properties"])
    required = schema(name)["required"]
    assert list(written) == [field for field in fields if field in required or field in written]


@pytest.mark.parametrize(("used", "limit"), [(800_500_000, 1_000_000_000), (1_200_000_000, 1_000_000_000)])
def test_alerts_are_what_their_schema_says(used: int, limit: int) -> None:
    period = Period(starts_at=1_769_893_200_000, ends_at=1_772_312_400_000, limit=limit, used=used)
    assert_document("alert.v1", alert_document("tenant-00001", period, 80, 1_770_600_000_000, 7, 120_345))


@pytest.mark.parametrize("reason", Refusal)
def test_refusals_are_what_their_schema_says(reason: Refusal) -> None:
    for tenant, source, message_id in ((None, None, None), ("tenant-00001", "gateway-eu", "SM-1")):
        document = refusal_document(7, 1, reason, b"\xff", tenant, source, message_id, 1_770_600_000_123)
        assert_document("refusal.v1", document)


COMMANDS = {struct.__struct_config__.tag: struct for struct in get_args(Command)}


@pytest.mark.parametrize("refusal", ["", *(reason.value for reason in Refusal)])
@pytest.mark.parametrize("example", [*sorted(COMMANDS.keys() - {"authorise"}), "authorise_by_country"])
def test_results_are_what_their_schema_says(example: str, refusal: str) -> None:
    command = decode_command((SCHEMAS / "examples" / "valid" / f"command.v1.{example}.json").read_bytes())
    assert not isinstance(command, Refusal)
    assert_document("result.v1", _result(command, Answer(command.id, b"", refusal, -30_000), 7, 88))


def test_every_command_has_a_valid_example_and_an_invalid_one() -> None:
    for folder in ("valid", "invalid"):
        examples = (SCHEMAS / "examples" / folder).glob("command.v1.*.json")
        documents = [json.loads(path.read_bytes()) for path in examples]
        shown = {document.get("type") for document in documents if isinstance(document, dict)}
        assert COMMANDS.keys() <= shown


def every_command() -> Log:
    """A log in which each command is accepted at least once, under a plan that recharges."""
    log = Log()
    recharge = {"level_credits": "100", "block_credits": "500", "price": "20"}
    priced = {"policy": "negative", "price": "0.02", "settled_by": "purchases"}
    log.set_plan(plan("1000", recharge=recharge, overage=priced, currency="USD"))
    log.grant("50", cost="5", currency="USD", command_id="g1")
    log.grant("70", valid_months=12)
    log.command("void_grant", grant="purchase:g1")
    log.command("adjust", credits="-20")
    log.command("adjust", credits="30")
    log.command("allocate", list="north", credits="100")
    log.command("reserve", "r1", credits="60", expires_at=log.now + HOUR)
    log.command("commit_reservation", reservation="r1", credits="10")
    log.command("release_reservation", reservation="r1")
    log.command("mark_contacts", contacts=["+14155550100"], state="active")
    log.command("set_organization", organization="ward")
    sending = {"count": 5, "country": "US"}
    for hours in (1, 2):
        log.command("authorise", sendings=[sending], campaign="may", reserve_until=log.now + hours * HOUR)
    log.command("authorise", body="hello", recipients=["+14155550100"])
    log.messages(1000)
    log.command("confirm_recharge", recharge="recharge-1")
    log.now += 2 * HOUR
    log.messages(600)
    log.command("decline_recharge", recharge="recharge-2")
    log.tick()
    return log


def test_what_commands_are_really_answered_is_what_the_schema_says() -> None:
    results = list(run(every_command()).effects.results.values())
    assert {result["type"] for result in results if result["outcome"] == "accepted"} == COMMANDS.keys()
    described = set(schema("result.v1")["properties"]["details"]["properties"])
    said: set[str] = set()
    for result in results:
        assert_document("result.v1", result)
        said |= result.get("details", {}).keys()
    assert said == described


def test_the_dearest_pre_flight_is_answered_as_the_schema_says() -> None:
    log = Log()
    dearest = {"kind": "sms", "credits": "1000000", "per": "segment"}
    log.set_plan(plan(rates=[dearest], overage={"policy": "negative"}))
    log.command("authorise", sendings=[{"count": 10_000_000, "segments": 255}] * 1000)
    result = run(log).effects.results[1]
    assert result["details"]["cost_requested"] == "2550000000000000000"
    assert_document("result.v1", result)


def test_requests_to_recharge_are_what_their_schema_says() -> None:
    fold = PartitionFold(0, rules())
    fold.fold(fold.admit(every_command().records))
    assert [request["id"] for request in fold.outcomes.recharges] == ["recharge-1", "recharge-2"]
    for request in fold.outcomes.recharges:
        assert_document("recharge.v1", request)
