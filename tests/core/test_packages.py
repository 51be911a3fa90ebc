"""Rules of packages: what a catalogue may offer, and how many messages a package buys where."""

import json
from datetime import UTC, datetime

import pytest

from pipeline.core.amounts import parse_credits
from pipeline.core.packages import OTHERS, Reach, decode_catalogue, named_countries, reach
from pipeline.core.rating import RateRule, Tariff, decode_card
from pipeline.data import catalogue_names, load_catalogue, load_rate_cards

IN_2025 = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp()) * 1000
IN_2026 = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 1000
PACKAGE = {"id": "small", "name": "Small", "credits": "10", "price": "1"}


def catalogue(**changes):
    return json.dumps({"id": "own", "currency": "EUR", "packages": [PACKAGE], **changes}).encode()


def card(*rates, zones=None):
    rules = [{"kind": kind, "credits": "1", "per": per} for kind, per in
             (("sms", "segment"), ("mms", "message"), ("rcs", "message"), ("email", "recipient"))]  # fmt: skip
    version = {"effective_at": "2020-01-01T00:00:00Z", "rates": [*rules, *rates], "zones": zones or {}}
    return decode_card(json.dumps({"id": "own", "versions": [version]}).encode())


def test_every_catalogue_of_the_package_can_be_read():
    assert catalogue_names() == ("blocks", "standard")
    assert [load_catalogue(name).id for name in catalogue_names()] == ["blocks", "standard"]


def test_prepaid_packages_are_valid_two_years_and_extended_by_another_purchase():
    packages = load_catalogue("standard").packages
    assert {(each.valid_months, each.is_extended) for each in packages} == {(24, True)}


def test_blocks_of_500_and_1000_cost_5_and_10_and_never_expire():
    offered = load_catalogue("blocks")
    assert offered.currency == "USD"
    assert [(each.credits, each.price, each.valid_months, each.is_extended) for each in offered.packages] == [
        ("500", "5", None, False),
        ("1000", "10", None, False),
    ]


def test_an_unknown_catalogue_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="no catalogue 'gold': there are blocks, standard"):
        load_catalogue("gold")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"packages": [PACKAGE, PACKAGE]}, "small: offered twice"),
        ({"packages": [PACKAGE | {"credits": "0"}]}, "small: credits must be above zero, not 0"),
        ({"packages": [PACKAGE | {"credits": "1e3"}]}, "small: credits: '1e3' is not an amount"),
        ({"packages": [PACKAGE | {"price": "-1"}]}, "small: price must not be negative, not -1"),
        ({"packages": [PACKAGE | {"is_extended": True}]}, "small: what never ends cannot be extended"),
        ({"packages": [PACKAGE | {"valid_months": 121}]}, "<= 120"),
        ({"packages": [PACKAGE | {"id": "Small"}]}, "matching regex"),
        ({"packages": [PACKAGE | {"colour": "red"}]}, "unknown field `colour`"),
        ({"packages": []}, "length >= 1"),
        ({"currency": "Dollar"}, "matching regex"),
    ],
)
def test_a_faulty_catalogue_is_refused_with_its_fault(changes, fault):
    with pytest.raises(ValueError, match=fault.replace("(", r"\(")):
        decode_catalogue(catalogue(**changes))


def test_all_faults_of_a_catalogue_are_told_at_once():
    with pytest.raises(ValueError, match=r"credits must .*; small: price must"):
        decode_catalogue(catalogue(packages=[PACKAGE | {"credits": "-1", "price": "-1"}]))


def test_a_package_is_found_by_its_id_or_not_at_all():
    offered = decode_catalogue(catalogue())
    assert offered.find("small") is offered.packages[0]
    assert offered.find("large") is None


def test_ten_credits_buy_whole_messages_and_the_rest_buys_none():
    tariff = Tariff(card({"kind": "sms", "country": "DE", "credits": "2.8", "per": "segment"}))
    assert reach(parse_credits("10"), tariff, ["DE"], IN_2026) == [
        Reach("DE", 2_800_000, 3),  # 8.4 credits; 1.6 are left over
        Reach(OTHERS, 1_000_000, 10),
    ]


def test_one_micro_credit_too_little_is_one_message_less():
    tariff = Tariff(card({"kind": "sms", "country": "DE", "credits": "2.5", "per": "segment"}))
    bought = [reach(parse_credits(text), tariff, ["DE"], IN_2026)[0].messages for text in ("10", "9.999999")]
    assert bought == [4, 3]


def test_messages_that_cost_nothing_are_bought_without_a_number():
    free = RateRule(kind="sms", credits="0", per="segment")
    assert reach(1, Tariff(card(), (free,)), [], IN_2026) == [Reach(OTHERS, 0, None)]


def test_the_prices_in_force_at_the_instant_count():
    tariff = Tariff(load_rate_cards()["standard"])
    thousand = parse_credits("1000")
    assert [reach(thousand, tariff, ["DE"], at)[0].messages for at in (IN_2025, IN_2026)] == [333, 357]


def test_countries_of_rules_zones_and_own_rates_are_all_named_and_zones_are_none():
    rates = (
        {"kind": "sms", "country": "near", "credits": "1", "per": "segment"},
        {"kind": "mms", "country": "FR", "credits": "1", "per": "message"},
    )
    own = (RateRule(kind="sms", credits="1", per="segment", country="TR"),
           RateRule(kind="sms", credits="1", per="segment", country="near"))  # fmt: skip
    assert named_countries(card(*rates, zones={"near": ["CA", "US"]}), own, IN_2026) == [
        "CA",
        "FR",
        "TR",
        "US",
    ]


def test_a_country_priced_for_another_kind_only_reaches_as_far_as_others():
    prices = card({"kind": "mms", "country": "FR", "credits": "9", "per": "message"})
    france, others = reach(parse_credits("10"), Tariff(prices), named_countries(prices, (), IN_2026), IN_2026)
    assert (france.country, france.messages) == ("FR", others.messages)
