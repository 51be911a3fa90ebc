"""A statement explains a balance: every entry in one line, sums that agree, whatever became of the credits."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.account import Entry
from pipeline.core.amounts import MICROS
from pipeline.core.ledger import allowance_id
from pipeline.core.statement import (
    SECTION_BY_KIND,
    Statement,
    UsageSum,
    grant_kind,
    make_statement,
)
from pipeline.core.statement_document import statement_document
from tests.builders import DAY, HOUR, MINUTE, Log, Worker, instant, plan, run
from tests.fact_sums import usage_of_facts
from tests.golden.models.scenarios import run as run_scenario
from tests.golden.models.scenarios import scenario_names

FEBRUARY, MARCH = instant("2026-02-01"), instant("2026-03-01")


def entry(kind: str, amount: int, at: int, grant_id: str = "allowance:1", **fields: Any) -> Entry:
    """An entry of whole credits, numbered by its instant unless told otherwise."""
    return Entry(
        entry_id=fields.pop("entry_id", f"{kind}:{grant_id}:{at}"),
        kind=kind,
        grant_id=grant_id,
        amount=amount * MICROS,
        cause=fields.pop("cause", ""),
        effective_at=at,
        posted_at=fields.pop("posted_at", at),
        offset=fields.pop("offset", 0),
        **fields,
    )


def lines_of(statement: Statement) -> list[tuple[str, int, int]]:
    """(kind, credits, credits after it) of every line."""
    return [(line.kind, line.amount // MICROS, line.balance // MICROS) for line in statement.lines]


def of_february(worker: Worker, **fields: Any) -> Statement:
    return make_statement(worker.effects.entries.values(), FEBRUARY, MARCH, **fields)


def test_a_month_is_told_from_its_allowance_to_its_expiry() -> None:
    log = Log(FEBRUARY + 12 * HOUR)
    log.set_plan(plan("10"))
    log.messages(2)
    log.now += DAY + 5 * MINUTE
    log.grant("5", cost="2.50", currency="EUR", command_id="p1")
    log.now += 7 * MINUTE
    log.messages(3)
    log.tick(MARCH)
    statement = of_february(run(log))
    assert lines_of(statement) == [
        ("allowance", 10, 10),
        ("usage", -2, 8),
        ("purchase", 5, 13),
        ("usage", -3, 10),
        ("expiry", -5, 5),
    ], "usage stands behind a purchase of the same quarter of an hour"
    assert (statement.opening, statement.closing) == (0, 5 * MICROS)
    assert statement.money() == {("purchase", "EUR"): 2_500_000}
    march = make_statement(run(log).effects.entries.values(), MARCH, MARCH + 31 * DAY)
    assert (march.opening, lines_of(march)) == (5 * MICROS, [("allowance", 10, 15)])


def test_usage_of_a_day_is_one_line_per_grant_where_its_last_window_is() -> None:
    log = Log(FEBRUARY + 9 * HOUR)
    log.set_plan(plan("4"))
    log.grant("10", command_id="p1")
    log.messages(3)
    log.now += 5 * HOUR
    log.grant("1", command_id="p2")
    log.now += HOUR
    log.messages(3)
    statement = of_february(run(log))
    assert [(line.grant_id, line.amount // MICROS, line.entries) for line in statement.lines[-2:]] == [
        (f"allowance:{FEBRUARY}", -4, 2),
        ("purchase:p1", -2, 1),
    ]
    by_entry = of_february(run(log), is_by_entry=True)
    assert [line.amount // MICROS for line in by_entry.lines if line.kind == "usage"] == [-3, -1, -2]
    assert by_entry.closing == statement.closing


def test_days_are_the_tenants() -> None:
    """22:30 in UTC is the next day in Paris."""
    entries = [entry("usage", -1, FEBRUARY + hour * HOUR + 30 * MINUTE) for hour in (21, 22, 23)]
    for zone, expected in (("UTC", [3]), ("Europe/Paris", [2, 1]), ("America/Denver", [3])):
        statement = make_statement(entries, FEBRUARY, MARCH, zone=zone)
        assert [line.entries for line in statement.lines] == expected[:2], zone


def test_the_span_is_half_open_and_what_ends_with_it_belongs_to_it() -> None:
    entries = [
        entry("purchase", 1, FEBRUARY - 1),
        entry("purchase", 10, FEBRUARY),
        entry("expiry", -100, MARCH - 1),
        entry("purchase", 1000, MARCH),
    ]
    statement = make_statement(entries, FEBRUARY, MARCH)
    assert (statement.opening, lines_of(statement)) == (MICROS, [("purchase", 10, 11), ("expiry", -100, -89)])


def test_an_opening_by_grant_stands_for_the_entries_before() -> None:
    before = [entry("allowance", 7, FEBRUARY - DAY), entry("purchase", 2, FEBRUARY - DAY, "purchase:p")]
    within = [entry("usage", -3, FEBRUARY, "purchase:p")]
    opening = {"allowance:1": 7 * MICROS, "purchase:p": 2 * MICROS, "gone": 0}
    told = make_statement(within, FEBRUARY, MARCH, opening=opening)
    assert told == make_statement([*before, *within], FEBRUARY, MARCH)
    assert told.rolled_over() == 7 * MICROS, "what was bought stays, and rolls over from nowhere"


def test_usage_of_the_period_before_is_marked_late() -> None:
    """It came after the grace of January, and counts in February."""
    log = Log(FEBRUARY - 10 * DAY)
    log.set_plan(plan("10"))
    log.now = FEBRUARY + 5 * DAY
    log.message("late", occurred_at=FEBRUARY - DAY)
    log.message("own")
    worker = run(log)
    statement = of_february(worker)
    assert [(line.kind, line.is_late) for line in statement.lines if line.section == "used"] == [
        ("usage", True),
        ("usage", False),
    ]
    used = usage_of_facts(worker.effects.facts.values(), "acme", FEBRUARY)
    assert [(each.is_late, each.messages, each.credits) for each in used] == [
        (False, 1, MICROS),
        (True, 1, MICROS),
    ]
    assert usage_of_facts(worker.effects.facts.values(), "other", FEBRUARY) == []


def test_what_no_grant_covered_is_told_with_how_it_ended() -> None:
    log = Log(FEBRUARY)
    log.set_plan(plan("0", overage={"policy": "arrears", "price": "0.03"}, currency="USD"))
    log.message("m1", body=None, segments=100)
    log.tick(MARCH + 4 * DAY)
    statement = of_february(run(log))
    assert lines_of(statement) == [("usage", -100, -100), ("arrears", 100, 0)]
    assert statement.money() == {("arrears", "USD"): 3 * MICROS}
    (uncovered,) = (each for each in statement.grants if not each.grant_id)
    assert (uncovered.opening, uncovered.used, uncovered.settled, uncovered.closing) == (
        0,
        -100 * MICROS,
        100 * MICROS,
        0,
    )


def test_a_settlement_moves_credits_between_grants_and_changes_no_balance() -> None:
    log = Log(FEBRUARY)
    log.set_plan(
        plan("0", overage={"policy": "negative", "price": "0.02", "settled_by": "purchases"}, currency="USD")
    )
    log.message("m1", body=None, segments=4)
    log.now += DAY
    log.grant("10", command_id="p1")
    statement = of_february(run(log))
    assert statement.sums(lambda line: line.section) == {"used": -4 * MICROS, "added": 10 * MICROS}
    assert {each.grant_id: each.settled // MICROS for each in statement.grants if each.settled} == {
        "": 4,
        "purchase:p1": -4,
    }


def test_money_paid_and_money_billed_are_summed_apart() -> None:
    """Model D: 10 due and 50 topped up are 60 paid; a purchase taken back is less."""
    usd = {"currency": "USD"}
    entries = [
        entry("payment", 500, FEBRUARY, "", money_micros=10 * MICROS, **usd),
        entry("purchase", 2500, FEBRUARY, "purchase:b", money_micros=50 * MICROS, **usd),
        entry("purchase", 9, FEBRUARY, "purchase:x", money_micros=7 * MICROS, currency="EUR"),
        entry("void", -9, FEBRUARY, "purchase:x", money_micros=-5 * MICROS, currency="EUR"),
        entry("arrears", 100, MARCH - 1, "", money_micros=3 * MICROS, **usd),
    ]
    document = statement_document(make_statement(entries, FEBRUARY, MARCH))
    assert (document["paid"], document["billed"]) == ({"EUR": "2", "USD": "60"}, {"USD": "3"})


def test_in_one_instant_usage_comes_before_a_lapse_and_what_grants_covered_before_what_none_did() -> None:
    """A late message burned a lapsed grant: its entry has a later offset than the expiry, and the same instant."""
    quarter = MARCH - 15 * MINUTE
    entries = [
        entry("expiry", -2, MARCH - 1, offset=1),
        entry("usage", -3, quarter, "", offset=2, window_start=quarter),
        entry("usage", -1, quarter, offset=3, window_start=quarter),
    ]
    lines = make_statement(entries, FEBRUARY, MARCH).lines
    assert [(line.kind, line.grant_id) for line in lines] == [
        ("usage", "allowance:1"),
        ("usage", ""),
        ("expiry", "allowance:1"),
    ]
    assert {line.at for line in lines} == {MARCH - 1}


def test_a_grant_that_neither_began_with_something_nor_moved_is_left_out() -> None:
    entries = [
        entry("purchase", 5, FEBRUARY - 2 * DAY, "purchase:old"),
        entry("usage", -5, FEBRUARY - DAY, "purchase:old"),
        entry("purchase", 5, FEBRUARY - DAY, "purchase:kept"),
    ]
    statement = make_statement(entries, FEBRUARY, MARCH)
    assert [(each.grant_id, each.closing // MICROS) for each in statement.grants] == [("purchase:kept", 5)]


def test_what_came_to_nothing_has_no_line_but_an_extension_has() -> None:
    entries = [
        entry("usage", 0, FEBRUARY),
        entry("allowance", 0, FEBRUARY),
        entry("extension", 0, FEBRUARY, "purchase:p"),
    ]
    assert [line.kind for line in make_statement(entries, FEBRUARY, MARCH).lines] == ["extension"]


def test_a_document_has_decimals_and_the_same_sums() -> None:
    used = UsageSum(
        "sms", "outbound", "", is_late=False, messages=1, segments=1, quantity=1, credits=1, refunded=0
    )
    entries = [
        entry("purchase", 5, FEBRUARY, "purchase:p", money_micros=30_000, currency="USD", cause="p"),
        entry("usage", -2, FEBRUARY + DAY, "purchase:p", window_start=FEBRUARY + DAY),
    ]
    document = statement_document(make_statement(entries, FEBRUARY, MARCH), [used])
    assert document["lines"][0] == {
        "at": FEBRUARY,
        "section": "added",
        "kind": "purchase",
        "grant": "purchase:p",
        "credits": "5",
        "balance": "5",
        "money": "0.03",
        "currency": "USD",
        "cause": "p",
        "is_late": False,
        "entries": 1,
    }
    assert (document["opening"], document["closing"]) == ("0", "3")
    assert document["sections"] == {
        "added": "5",
        "used": "-2",
        "refunded": "0",
        "lapsed": "0",
        "corrected": "0",
        "settled": "0",
    }
    assert document["usage"][0]["country"] is None
    assert document["usage"][0]["credits"] == "0.000001"
    assert document["grants"][0]["closing"] == "3"


@pytest.mark.parametrize("name", scenario_names())
def test_statements_of_the_billing_models_lead_from_period_to_period_to_the_balance(name: str) -> None:
    """And what they say was used is what the facts say, refunds and late messages included."""
    report = run_scenario(name)
    for tenant, account in report.accounts.items():
        entries = [entry for whose, entry in report.entries if whose == tenant]
        # An allowance that a plan gives within a period has another id than the period's own.
        starts = sorted(
            {each.effective_at for each in entries if each.grant_id == allowance_id(each.effective_at)}
        )
        balance = 0
        for starts_at, ends_at in pairwise([*starts, 1 << 53]):
            statement = make_statement(entries, starts_at, ends_at)
            assert statement.opening == balance, "nothing happens between periods"
            assert not any(each.closing < 0 for each in statement.grants if each.grant_id), tenant
            used = usage_of_facts(report.facts, tenant, starts_at)
            sums = statement.sums(lambda line: line.kind)
            of_ledger = sum(sums.get(kind, 0) for kind in ("usage", "refund"))
            assert sum(each.credits - each.refunded for each in used) == -of_ledger
            balance = statement.closing
        assert balance == account.balance, tenant


@pytest.mark.parametrize(
    ("grant_id", "kind"),
    [
        ("", "uncovered"),
        ("allowance:1", "allowance"),
        ("allowance:1:until:2", "allowance"),
        ("floor:1", "rollover"),
        ("purchase:a:b", "purchase"),
    ],
)
def test_a_grants_id_says_its_kind(grant_id: str, kind: str) -> None:
    assert grant_kind(grant_id) == kind


def test_every_kind_of_entry_has_a_section() -> None:
    """The ledger's own list stands in the comment of `ledger_entries.kind`."""
    listed = (
        "allowance, purchase, promotion, adjustment, plan_change, rollover, extension, expiry, expiry_correction,"
        " settlement, payment, arrears, write_off, void, commit, usage, late_usage, refund"
    )
    assert set(SECTION_BY_KIND) == set(listed.replace(",", "").split())


ENTRIES = st.lists(
    st.builds(
        lambda number, kind, amount, at, grant_id: entry(
            kind, amount, at, grant_id, entry_id=str(number), window_start=at // 900_000 * 900_000
        ),
        st.integers(0, 10**9),
        st.sampled_from(sorted(SECTION_BY_KIND)),
        st.integers(-50, 50),
        st.integers(FEBRUARY - 3 * DAY, FEBRUARY + 6 * DAY),
        st.sampled_from(["", "allowance:1", "purchase:p"]),
    ),
    unique_by=lambda each: each.entry_id,
    max_size=40,
)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_statements_that_follow_each_other_fit_and_their_order_of_reading_is_nothing(
    entries: list[Entry], random: Any
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)
    middle, end = FEBRUARY + DAY, FEBRUARY + 7 * DAY
    first, second = (
        make_statement(shuffled, *span, zone="Asia/Kathmandu") for span in ((FEBRUARY, middle), (middle, end))
    )
    assert first == make_statement(entries, FEBRUARY, middle, zone="Asia/Kathmandu")
    assert first.closing == second.opening
    assert second.closing == sum(each.amount for each in entries)
    for statement in (first, second):
        balance = statement.opening
        for line in statement.lines:
            balance += line.amount
            assert line.balance == balance
        assert balance == statement.closing == sum(each.closing for each in statement.grants)
        assert [line.at for line in statement.lines] == sorted(line.at for line in statement.lines)
