"""Plans: documents that travel, terms that the folds use, presets and cards of the package."""

from datetime import UTC, datetime

import msgspec
import pytest

from pipeline.core.plans import Plan, PlanTerms, SegmentRule, compile_plan, decode_plan, encode_plan
from pipeline.core.rating import RateRule
from pipeline.core.segments import profile
from pipeline.data import load_plan, load_rate_cards, plan_names

CARDS = load_rate_cards()
AT = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1000


def plan(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "name": "test",
        "zone": "Europe/Paris",
        "anchor_day": 31,
        "allowance_credits": "1000.5",
        "rate_card": "standard",
    }
    return msgspec.convert(fields | changes, Plan)


def terms_of(name: str) -> PlanTerms:
    return compile_plan(load_plan(name), CARDS)


def test_terms_say_what_the_document_says() -> None:
    terms = compile_plan(plan(), CARDS)
    assert (terms.name, terms.zone, terms.anchor_day) == ("test", "Europe/Paris", 31)
    assert terms.allowance_micros == 1_000_500_000
    assert terms.alert_levels == (80, 85, 90, 95)
    assert terms.billable_statuses == {"sent", "delivered", "undelivered", "unknown", "received", "read"}
    assert terms.late_grace_milliseconds == 72 * 3_600_000
    assert terms.overage == "hard_stop"
    assert terms.profile == profile()
    assert terms.profile_by_source == {}


def test_own_rates_reach_the_tariff() -> None:
    own = {"kind": "sms", "credits": "0.25", "per": "segment"}
    tariff = compile_plan(plan(rates=[own]), CARDS).tariff
    assert tariff.rate("sms", "outbound", "US", "", AT).micros == 250_000


def test_a_source_is_counted_by_its_own_rule() -> None:
    rules = {"gateway-2": {"reference_bits": 16, "single_shift": "turkish", "locking_shift": "turkish"}}
    terms = compile_plan(plan(segments={"reference_bits": 16}, segments_by_source=rules), CARDS)
    assert terms.profile == profile(16)
    assert terms.profile_by_source == {"gateway-2": profile(16, "turkish", "turkish")}


FAULTS: list[tuple[dict[str, object], str]] = [
    ({"name": ""}, "name must have 1 to 64 characters"),
    ({"name": "x" * 65}, "name must have 1 to 64 characters"),
    ({"zone": "Europe/Atlantis"}, "zone 'Europe/Atlantis' is not in the IANA database"),
    ({"anchor_day": 0}, "anchor_day 0 is not 1 to 31"),
    ({"anchor_day": 32}, "anchor_day 32 is not 1 to 31"),
    ({"allowance_credits": "1e3"}, "allowance_credits: '1e3' is not an amount of credits"),
    ({"allowance_credits": "-1"}, "allowance_credits must not be negative"),
    ({"allowance_credits": "1000000000.000001"}, "allowance_credits must be at most 1000000000"),
    ({"rollover": {"cap_credits": "1000000001"}}, "rollover.cap_credits must be at most 1000000000"),
    ({"rollover": {"floor_credits": "1000000001"}}, "rollover.floor_credits must be at most 1000000000"),
    (
        {"recharge": {"level_credits": "1", "block_credits": "1000000001", "price": "0"}},
        "recharge.block_credits must be at most 1000000000",
    ),
    (
        {"recharge": {"level_credits": "1000000001", "block_credits": "1", "price": "0"}},
        "recharge.level_credits must be at most 1000000000",
    ),
    ({"quotas": {"email": -1}}, "quotas must be 0 to 1000000000000"),
    ({"quotas": {"email": 10**12 + 1}}, "quotas must be 0 to 1000000000000"),
    ({"licensed_contacts": -1}, "licensed_contacts must be 0 to 1000000000000"),
    ({"licensed_contacts": 10**12 + 1}, "licensed_contacts must be 0 to 1000000000000"),
    ({"alert_levels": [0, 50]}, "alert_levels must be percentages from 1 to 100"),
    ({"alert_levels": [50, 101]}, "alert_levels must be percentages from 1 to 100"),
    ({"alert_levels": [90, 80]}, "alert_levels must ascend, each once"),
    ({"alert_levels": [80, 80]}, "alert_levels must ascend, each once"),
    ({"alert_levels": list(range(1, 18))}, "alert_levels must be at most 16"),
    ({"rate_card": "gold"}, "rate_card 'gold' is none of: standard"),
    ({"rates": [{"kind": "sms", "credits": "-1", "per": "segment"}]}, "rates: sms/*/*/*: -1 credits"),
    (
        {"rates": [{"kind": "sms", "country": "mars", "credits": "1", "per": "segment"}]},
        "rates: sms/mars/*/*",
    ),
    (
        {"rates": [{"kind": "mms", "country": "US", "credits": "1", "per": "message"}] * 1001},
        "rates must be at most 1000",
    ),
    ({"billable_statuses": []}, "billable_statuses must name at least one"),
    ({"billable_statuses": ["sent", "sent"]}, "billable_statuses must name at least one, each once"),
    ({"late_grace_hours": -1}, "late_grace_hours -1 is not 0 to 744"),
    ({"late_grace_hours": 745}, "late_grace_hours 745 is not 0 to 744"),
    ({"segments": {"single_shift": "klingon"}}, "single_shift 'klingon' is none of: "),
    ({"segments_by_source": {"a": {"locking_shift": "spanish"}}}, "locking_shift 'spanish' is none of: "),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS)
def test_a_faulty_plan_says_its_fault(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match="plan ") as refusal:
        compile_plan(plan(**changes), CARDS)
    assert fault in str(refusal.value)


def test_every_fault_is_told_at_once() -> None:
    wrong: dict[str, object] = {}
    for changes, _ in FAULTS:
        wrong |= changes
    with pytest.raises(ValueError, match="plan ") as refusal:
        compile_plan(plan(**wrong), CARDS)
    named = [field for field in wrong if field.removesuffix("_by_source") not in ("rates", "segments")]
    assert [field for field in named if field not in str(refusal.value)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"anchor_day": 1},
        {"alert_levels": [1, 100]},
        {"alert_levels": list(range(85, 101))},
        {"alert_levels": []},
        {"allowance_credits": "0"},
        {"allowance_credits": "1000000000", "rollover": {"cap_credits": "1000000000"}},
        {"quotas": {"email": 10**12}, "licensed_contacts": 10**12},
        {"late_grace_hours": 0},
        {"late_grace_hours": 744},
        {"billable_statuses": ["failed"]},
    ],
)
def test_bounds_belong_to_their_ranges(changes: dict[str, object]) -> None:
    compile_plan(plan(**changes), CARDS)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("{}", "missing required field `name`"),
        (
            '{"name":"a","zone":"UTC","anchor_day":1,"allowance_credits":1,"rate_card":"standard"}',
            "allowance_credits",
        ),
        (
            '{"name":"a","zone":"UTC","anchor_day":1.5,"allowance_credits":"1","rate_card":"standard"}',
            "anchor_day",
        ),
        (
            '{"name":"a","zone":"UTC","anchor_day":1,"allowance_credits":"1","rate_card":"s","color":1}',
            "color",
        ),
    ],
)
def test_a_document_of_another_shape_is_refused_with_its_place(document: str, place: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=place):
        decode_plan(document.encode())


def test_equal_plans_are_encoded_in_equal_bytes() -> None:
    first = plan(segments_by_source={"a": {"reference_bits": 16}, "b": {}}, zone="UTC")
    second = plan(zone="UTC", segments_by_source={"b": {}, "a": {"reference_bits": 16}})
    assert encode_plan(first) == encode_plan(second)
    assert encode_plan(first) != encode_plan(plan(zone="UTC"))


def test_a_plan_survives_encoding() -> None:
    original = plan(
        rates=[RateRule(kind="sms", credits="1", per="segment", country="US")],
        alert_levels=[50],
        segments_by_source={"a": SegmentRule(reference_bits=16)},
    )
    assert decode_plan(encode_plan(original)) == original


@pytest.mark.parametrize("name", plan_names())
def test_presets_compile_and_are_named_like_their_files(name: str) -> None:
    assert terms_of(name).name == name


def test_unknown_preset_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no plan preset '\.\./plans/starter'.*bundle_by_type.*starter"):
        load_plan("../plans/starter")


@pytest.mark.parametrize(
    ("kind", "country", "micros", "per"),
    [
        ("sms", "US", 1_000_000, "segment"),
        ("sms", "CA", 1_000_000, "segment"),
        ("sms", "DE", 2_000_000, "segment"),
        ("sms", "", 2_000_000, "segment"),
        ("mms", "US", 3_000_000, "message"),
        ("mms", "DE", 3_000_000, "message"),
    ],
)
def test_kind_credits_price_by_kind_and_the_same_both_ways(
    kind: str, country: str, micros: int, per: str
) -> None:
    tariff = terms_of("kind_credits").tariff
    for direction in ("outbound", "inbound"):
        found = tariff.rate(kind, direction, country, "", AT)
        assert (found.micros, found.per) == (micros, per)


def test_bundle_by_type_costs_one_credit_whatever_the_message() -> None:
    terms = terms_of("bundle_by_type")
    found = {
        terms.tariff.rate(kind, direction, country, category, AT).micros
        for kind in ("sms", "mms", "rcs", "email")
        for direction in ("outbound", "inbound")
        for country in ("US", "DE", "")
        for category in ("", "campaign")
    }
    assert found == {1_000_000}
    assert terms.allowance_micros == 20_000 * 1_000_000


def test_standard_card_changes_one_price_in_2026() -> None:
    tariff = terms_of("starter").tariff
    before = [
        tariff.rate("sms", "outbound", country, "", AT - 90 * 86_400_000) for country in ("DE", "US", "FR")
    ]
    after = [tariff.rate("sms", "outbound", country, "", AT) for country in ("DE", "US", "FR")]
    assert [rate.micros for rate in before] == [3_000_000, 1_000_000, 2_500_000]
    assert [rate.micros for rate in after] == [2_800_000, 1_000_000, 2_500_000]
    assert {rate.version for rate in before + after} == {"standard@2024-01-01", "standard@2026-01-01"}
