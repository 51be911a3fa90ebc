"""What a message costs: precedence, time, and cards that leave nothing unpriced."""

import msgspec
import pytest

from pipeline.core import rating
from pipeline.core.rating import Rate, RateCard, RateRule, Tariff, compile_card, decode_card, quantity

MICROS = 1_000_000
FIRST_AT = 1_704_067_200_000  # 2024-01-01T00:00:00Z
SECOND_AT = 1_735_689_600_000  # 2025-01-01T00:00:00Z

# Every price is different, so that a rate tells which rule gave it.
RULES = [
    {"kind": "sms", "credits": "1", "per": "segment"},
    {"kind": "sms", "category": "otp", "credits": "2", "per": "segment"},
    {"kind": "sms", "direction": "inbound", "credits": "3", "per": "segment"},
    {"kind": "sms", "direction": "inbound", "category": "otp", "credits": "4", "per": "segment"},
    {"kind": "sms", "country": "alps", "credits": "5", "per": "segment"},
    {"kind": "sms", "country": "alps", "category": "otp", "credits": "6", "per": "segment"},
    {"kind": "sms", "country": "alps", "direction": "inbound", "credits": "7", "per": "segment"},
    {"kind": "sms", "country": "CH", "credits": "8", "per": "segment"},
    {"kind": "sms", "country": "CH", "category": "otp", "credits": "9", "per": "segment"},
    {"kind": "sms", "country": "CH", "direction": "outbound", "credits": "10", "per": "segment"},
    {"kind": "mms", "credits": "20", "per": "message"},
    {"kind": "rcs", "direction": "outbound", "credits": "30", "per": "message"},
    {"kind": "rcs", "direction": "inbound", "credits": "31", "per": "segment"},
    {"kind": "email", "credits": "0.1", "per": "recipient"},
]
VERSION = {"effective_at": "2024-01-01T00:00:00Z", "zones": {"alps": ["AT", "CH"]}, "rates": RULES}


def card(*versions: dict[str, object]) -> RateCard:
    return decode_card(msgspec.json.encode({"id": "test", "versions": versions or [VERSION]}))


def version(effective_at: str, sms_credits: str) -> dict[str, object]:
    """A version that differs from the first in one price."""
    rates = [RULES[0] | {"credits": sms_credits}, *RULES[1:]]
    return {"effective_at": effective_at, "zones": VERSION["zones"], "rates": rates}


def rule(**fields: str) -> RateRule:
    return msgspec.convert({"kind": "sms", "per": "segment"} | fields, RateRule)


def faults_of(**changes: object) -> str:
    with pytest.raises(ValueError, match="rate card test: ") as refusal:
        card(VERSION | changes)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("direction", "country", "category", "price"),
    [
        # Country before zone before "*" ...
        ("outbound", "FR", "", 1),
        ("outbound", "AT", "", 5),
        ("outbound", "CH", "", 10),
        # ... even where only the less exact place names the direction or the category.
        ("inbound", "CH", "", 8),
        ("inbound", "AT", "otp", 7),
        # Then direction before "*", even where only the less exact direction names the category.
        ("inbound", "FR", "", 3),
        ("inbound", "AT", "", 7),
        ("outbound", "CH", "otp", 10),
        # Then category before "*".
        ("outbound", "FR", "otp", 2),
        ("inbound", "FR", "otp", 4),
        ("outbound", "AT", "otp", 6),
        ("inbound", "CH", "otp", 9),
        # Words that no rule names cost what no word costs.
        ("outbound", "FR", "promo", 1),
        ("outbound", "CH", "promo", 10),
        # A country nobody knows is rated by the fallback.
        ("outbound", "", "", 1),
        ("inbound", "", "otp", 4),
    ],
)
def test_place_decides_before_direction_before_category(
    direction: str, country: str, category: str, price: int
) -> None:
    tariff = Tariff(card())
    for _ in range(2):  # The second answer is the remembered one.
        assert tariff.rate("sms", direction, country, category, FIRST_AT).micros == price * MICROS


@pytest.mark.parametrize(
    ("kind", "direction", "country", "expected"),
    [
        ("sms", "outbound", "CH", Rate(10 * MICROS, "segment", "test@2024-01-01", is_fallback=False)),
        ("sms", "outbound", "AT", Rate(5 * MICROS, "segment", "test@2024-01-01", is_fallback=False)),
        ("sms", "outbound", "FR", Rate(1 * MICROS, "segment", "test@2024-01-01", is_fallback=True)),
        ("sms", "outbound", "", Rate(1 * MICROS, "segment", "test@2024-01-01", is_fallback=True)),
        # An email costs the same everywhere, so no country falls back.
        ("email", "outbound", "", Rate(100_000, "recipient", "test@2024-01-01", is_fallback=False)),
        ("mms", "inbound", "FR", Rate(20 * MICROS, "message", "test@2024-01-01", is_fallback=False)),
        ("rcs", "inbound", "FR", Rate(31 * MICROS, "segment", "test@2024-01-01", is_fallback=False)),
    ],
)
def test_rate_says_price_unit_version_and_whether_it_fell_back(
    kind: str, direction: str, country: str, expected: Rate
) -> None:
    assert Tariff(card()).rate(kind, direction, country, "", FIRST_AT) == expected


@pytest.mark.parametrize(
    ("at", "price", "label"),
    [
        (FIRST_AT - 1, 1, "test@2024-01-01"),
        (0, 1, "test@2024-01-01"),
        (FIRST_AT, 1, "test@2024-01-01"),
        (SECOND_AT - 1, 1, "test@2024-01-01"),
        (SECOND_AT, 2, "test@2025-01-01"),
        (SECOND_AT + 10**10, 2, "test@2025-01-01"),
        (10**13, 3, "test@2200-06-01T12:30:00Z"),
    ],
)
def test_version_in_force_when_the_message_occurred_decides(at: int, price: int, label: str) -> None:
    versions = [
        version("2024-01-01T00:00:00Z", "1"),
        version("2025-01-01T02:00:00+02:00", "2"),
        version("2200-06-01T12:30:00Z", "3"),
    ]
    found = Tariff(card(*versions)).rate("sms", "outbound", "FR", "", at)
    assert (found.micros, found.version) == (price * MICROS, label)


def test_own_rates_are_searched_as_a_whole_before_the_card() -> None:
    tariff = Tariff(card(), [rule(credits="0.5"), rule(credits="0.7", country="alps", direction="inbound")])
    found = {
        key: tariff.rate("sms", *key, "", FIRST_AT)
        for key in [("outbound", "CH"), ("outbound", "FR"), ("inbound", "CH"), ("inbound", "FR")]
    }
    assert {key: rate.micros for key, rate in found.items()} == {
        ("outbound", "CH"): 500_000,  # Although the card has a rule for exactly this.
        ("outbound", "FR"): 500_000,
        ("inbound", "CH"): 700_000,
        ("inbound", "FR"): 500_000,
    }
    assert {rate.version for rate in found.values()} == {"test@2024-01-01+tenant"}


def test_what_own_rates_leave_open_is_rated_by_the_card() -> None:
    tariff = Tariff(card(), [rule(credits="0", category="otp", country="FR")])
    assert tariff.rate("sms", "outbound", "FR", "otp", FIRST_AT).micros == 0
    rest = tariff.rate("sms", "outbound", "FR", "", FIRST_AT)
    assert (rest.micros, rest.version) == (1 * MICROS, "test@2024-01-01")


def test_own_rates_leave_other_tariffs_of_the_card_alone() -> None:
    shared = card()
    plain = Tariff(shared)
    assert plain.rate("sms", "outbound", "FR", "", FIRST_AT).micros == 1 * MICROS
    assert (
        Tariff(shared, [rule(credits="9")]).rate("sms", "outbound", "FR", "", FIRST_AT).micros == 9 * MICROS
    )
    assert plain.rate("sms", "outbound", "FR", "", FIRST_AT).micros == 1 * MICROS


def test_own_rates_hold_under_every_version() -> None:
    versions = [version("2024-01-01T00:00:00Z", "1"), version("2025-01-01T00:00:00Z", "2")]
    tariff = Tariff(card(*versions), [rule(credits="0.5", country="CH")])
    labels = [tariff.rate("sms", "inbound", "CH", "", at).version for at in (FIRST_AT, SECOND_AT)]
    assert labels == ["test@2024-01-01+tenant", "test@2025-01-01+tenant"]


@pytest.mark.parametrize(
    ("own", "fault"),
    [
        (rule(credits="1", country="andes"), "sms/andes/*/*: the country is no alpha-2 code"),
        (rule(credits="-1"), "sms/*/*/*: -1 credits are not within 0 to 1000000"),
        (rule(credits="1", category=""), "an empty category"),
        (rule(credits="1", kind="mms"), "mms is priced per message, not per segment"),
    ],
)
def test_faulty_own_rates_are_refused(own: RateRule, fault: str) -> None:
    with pytest.raises(ValueError, match="/") as refusal:
        Tariff(card(version("2024-01-01T00:00:00Z", "1"), version("2025-01-01T00:00:00Z", "2")), [own])
    assert str(refusal.value).count(fault) == 1


def test_hostile_categories_leave_nothing_behind() -> None:
    compiled = card()
    tariff = Tariff(compiled)
    for number in range(1_000):
        tariff.rate("sms", "outbound", "FR", f"category-{number}", FIRST_AT)
    assert len(compiled.price_lists[0].rate_by_key) == 1


def test_remembered_rates_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating, "_MAX_RATES_HELD", 10)
    compiled = card()
    tariff = Tariff(compiled)
    for number in range(100):
        found = tariff.rate("sms", "outbound", f"country {number}", "", FIRST_AT)
        assert found.micros == 1 * MICROS
        assert len(compiled.price_lists[0].rate_by_key) <= 10


@pytest.mark.parametrize(
    ("per", "segments", "recipients", "units"),
    [
        ("segment", 3, 1, 3),
        ("segment", 0, 1, 1),
        ("message", 3, 50, 1),
        ("recipient", 0, 50, 50),
        ("recipient", 3, 0, 1),
    ],
)
def test_quantity_counts_what_the_rate_is_per(
    per: rating.Unit, segments: int, recipients: int, units: int
) -> None:
    assert quantity(per, segments, recipients) == units


@pytest.mark.parametrize("missing", ["sms", "mms", "rcs", "email"])
def test_card_without_a_fallback_for_a_kind_is_refused(missing: str) -> None:
    kept = [each for each in RULES if each["kind"] != missing]
    named = {"kind": missing, "country": "CH", "credits": "1", "per": "message"}
    faults = faults_of(rates=[*kept, named])
    assert f'{missing} outbound has no rate for country "*"' in faults
    assert f'{missing} inbound has no rate for country "*"' in faults


def test_fallback_for_one_direction_does_not_stand_for_the_other() -> None:
    faults = faults_of(
        rates=[each for each in RULES if each.get("direction") != "inbound" or each["kind"] != "rcs"]
    )
    assert "rcs inbound has no rate" in faults
    assert "rcs outbound" not in faults


def test_every_fault_of_every_version_is_told_at_once() -> None:
    faulty = [
        RULES[0] | {"credits": "1e3"},
        RULES[0] | {"credits": "1000000.000001"},
        RULES[4] | {"country": "DEU"},
        *RULES[10:],
    ]
    with pytest.raises(ValueError, match="rate card test: ") as refusal:
        card(
            VERSION | {"rates": faulty, "zones": {"Alps": ["AT"], "north": ["AT", "dk"]}},
            VERSION | {"rates": RULES[1:]},
        )
    for fault in [
        "version of 2024-01-01: sms/*/*/*: '1e3' is not an amount of credits",
        "sms/*/*/*: 1000000.000001 credits are not within 0 to 1000000",
        "sms/*/*/*: priced twice",
        "sms/DEU/*/*: the country is no alpha-2 code",
        "zone 'Alps': a name is small letters",
        "zone north: AT is in zone Alps already",
        "zone north: 'dk' is no alpha-2 code",
        'sms outbound has no rate for country "*"',
        "versions must follow each other in time",
    ]:
        assert fault in str(refusal.value)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"id": "Test", "versions": [VERSION]}, r"\$\.id"),
        ({"id": "test", "versions": []}, r"\$\.versions"),
        ({"id": "test", "versions": [VERSION], "currency": "EUR"}, "currency"),
        ({"id": "test", "versions": [VERSION | {"effective_at": "2024-01-01T00:00:00"}]}, "effective_at"),
        ({"id": "test", "versions": [VERSION | {"rates": [RULES[0] | {"per": "byte"}]}]}, r"rates\[0\]\.per"),
        (
            {"id": "test", "versions": [VERSION | {"rates": [RULES[0] | {"credits": 1}]}]},
            r"rates\[0\]\.credits",
        ),
    ],
)
def test_document_of_another_shape_is_refused_with_its_place(document: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        decode_card(msgspec.json.encode(document))


def test_decoded_and_built_documents_price_alike() -> None:
    document = msgspec.convert({"id": "test", "versions": [VERSION]}, rating.RateCardDocument)
    assert Tariff(compile_card(document)).rate("sms", "inbound", "CH", "", 0) == Tariff(card()).rate(
        "sms", "inbound", "CH", "", 0
    )
