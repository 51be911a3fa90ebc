"""The way of one message through the fold, what a checkpoint keeps, and what a crash finds."""

from typing import Any

import pytest

from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.partitions import partition_of
from pipeline.core.process import PartitionFold
from pipeline.core.refusals import Refusal
from pipeline.core.windows import WINDOW_MILLISECONDS
from tests.builders import AT, DAY, HOUR, MINUTE, NOON, Log, Tables, Worker, instant, plan, rules, run, writes

STANDARD = plan("1000", rates=[])
HOLD = 6 * HOUR


def log_of(document: dict[str, Any] | None = None) -> Log:
    log = Log()
    log.set_plan(document, effective_at=NOON - 40 * DAY)
    return log


def facts_of(log: Log) -> list[dict[str, Any]]:
    return [dict(zip(FACT_COLUMNS, fact, strict=True)) for fact in run(log).effects.facts.values()]


def test_a_fact_says_everything_about_its_message() -> None:
    log = log_of()
    log.now += 5
    log.message(
        "m1",
        body="“quoted”",
        category="campaign",
        list="vip",
        member="kim",
        inbox="sales",
        campaign="spring",
        occurred_at=NOON,
    )
    (fact,) = facts_of(log)
    assert len(fact.pop("message_key")) == 16
    assert 0 <= fact.pop("fingerprint") < 2**32
    assert 0 <= fact.pop("counterparty_hash") < 2**64
    assert fact == {
        "tenant": "acme",
        "message_id": "m1",
        "source": "gateway",
        "kind": "sms",
        "direction": "outbound",
        "status": "sent",
        "country": "US",
        "category": "campaign",
        "list": "vip",
        "member": "kim",
        "inbox": "sales",
        "campaign": "spring",
        "encoding": "UCS-2",
        "occurred_at": NOON,
        "received_at": NOON + 5,
        "local_date": NOON // DAY,
        "period_start": instant("2026-02-01"),
        "messages": 1,
        "segments": 1,
        "quantity": 1,
        "rate_micros": 1_000_000,
        "credits_micros": 1_000_000,
        "rate_version": "standard@2026-01-01+tenant",
        "grant_id": f"allowance:{instant('2026-02-01')}",
        "grant_micros": 1_000_000,
        "further_grants": {},
        "kafka_partition": 0,
        "kafka_offset": 1,
    }


@pytest.mark.parametrize(
    ("fields", "country", "segments", "quantity", "micros"),
    [
        ({"to": "+4915112345678", "body": "x" * 161}, "DE", 2, 2, 5_600_000),
        ({"to": "+14155550100", "body": "x" * 161}, "US", 2, 2, 2_000_000),
        ({"to": "+4915112345678", "country": "US"}, "US", 1, 1, 1_000_000),
        ({"direction": "inbound", "status": "received", "from_": "+4915112345678"}, "DE", 1, 1, 2_800_000),
        ({"kind": "mms", "body": "x" * 400}, "US", 0, 1, 3_000_000),
        ({"kind": "rcs", "body": "x" * 400}, "US", 0, 1, 1_000_000),
        ({"kind": "email", "body": None, "to": "a@example.com", "recipients": 25}, "", 0, 25, 2_500_000),
        ({"to": "nowhere"}, "", 1, 1, 2_000_000),
    ],
)
def test_each_kind_is_counted_located_and_rated(
    fields: dict[str, Any], country: str, segments: int, quantity: int, micros: int
) -> None:
    log = log_of(STANDARD)
    log.message(**fields)
    (fact,) = facts_of(log)
    assert (fact["country"], fact["segments"], fact["quantity"], fact["credits_micros"]) == (
        country,
        segments,
        quantity,
        micros,
    )


def test_a_source_is_counted_by_its_own_rule() -> None:
    log = log_of(plan("1000", segments_by_source={"wide": {"reference_bits": 16}}))
    for source in ("narrow", "wide"):
        log.message(source, source=source, body="x" * (153 * 2))
    assert [fact["segments"] for fact in facts_of(log)] == [2, 3]


def test_the_coding_that_the_gateway_names_decides() -> None:
    log = log_of()
    log.message(body="x" * 100, encoding="UCS-2")
    (fact,) = facts_of(log)
    assert (fact["encoding"], fact["segments"]) == ("UCS-2", 2)


def test_the_other_party_is_hashed_with_a_key() -> None:
    log = log_of()
    log.message("m1")
    log.message("m2", direction="inbound", status="received", from_="+14155550100", to="Acme")
    log.message("m3", to="+14155550101")
    first, second, third = (fact["counterparty_hash"] for fact in facts_of(log))
    assert first == second != third
    other = run(log, rules(counterparty_key=b"another"))
    assert next(iter(other.effects.facts.values()))[AT["counterparty_hash"]] != first


def test_a_message_that_brings_usage_beyond_a_trillion_credits_is_refused_and_counted_nowhere() -> None:
    dear = {"kind": "email", "credits": "999999", "per": "recipient"}
    log = log_of(plan("5", rates=[dear]))
    log.message("m1", kind="email", recipients=1_000_000)
    log.message("m2", kind="email", recipients=2)
    log.message("m3", kind="email", recipients=1)
    log.message("m3", kind="email", recipients=1, status="delivered")
    worker = run(log)
    assert worker.effects.reasons() == [Refusal.AMOUNT_INVALID]
    assert [fact[AT["message_id"]] for fact in worker.effects.facts.values()] == ["m1", "m3"]
    used = (1_000_000 + 1) * 999_999 * 1_000_000
    assert [period.used for period in worker.account().periods] == [used]
    assert worker.effects.windows["acme", NOON][1] == {("email", "outbound", "", ""): [2, 0, 1_000_001, used]}


def test_days_are_the_tenants_own() -> None:
    log = log_of(plan("10", zone="Asia/Kathmandu"))
    log.now = instant("2026-02-11T00:00")
    for minutes in (-1, 0):
        log.message(f"m{minutes}", occurred_at=instant("2026-02-10T18:15") + minutes * MINUTE)
    assert [fact["local_date"] - NOON // DAY for fact in facts_of(log)] == [0, 1]


def test_which_statuses_bill_is_the_plans_choice() -> None:
    log = log_of(plan("10", billable_statuses=["delivered"]))
    log.message("m1", status="sent")
    log.message("m2", status="delivered")
    assert [fact["message_id"] for fact in facts_of(log)] == ["m2"]


def test_metrics_count_what_happened() -> None:
    log = log_of(STANDARD)
    log.message("m1")
    log.message("m1")
    log.message("m1", status="delivered")
    log.message("m2", segments=2)
    log.message("m3", to="nowhere")
    log.message("m4", to="+6421234567")
    assert run(log).effects.counts == {
        "received": 7,
        "duplicates": 1,
        "statuses": 1,
        "segments_differ": 1,
        "unrated_country_unknown": 1,
        "unrated_fallback_zone": 1,
    }


def test_metrics_say_what_became_of_a_late_message() -> None:
    log = log_of(STANDARD)
    log.now = NOON + HOUR
    log.message("in time", occurred_at=NOON)
    log.message("its window is held", occurred_at=NOON - 1)
    log.now = NOON + 97 * HOUR
    log.message("its window was let go", occurred_at=NOON)
    assert run(log).effects.counts == {
        "received": 4,
        "late_own_window": 1,
        "late_recomputed": 1,
        "windows_recomputed": 1,
    }


def test_metrics_say_so_where_a_late_message_counts_in_the_next_period() -> None:
    log = log_of(plan("1000", rates=[], late_grace_hours=0))
    log.now = instant("2026-03-01T02:00")
    log.message("its window is held", occurred_at=instant("2026-02-28T23:00"))
    log.message("its window was let go", occurred_at=instant("2026-02-20T23:00"))
    assert run(log).effects.counts["late_next_period"] == 2


# Windows.


def test_a_window_is_fifteen_minutes_of_event_time() -> None:
    log = log_of()
    log.now = NOON + HOUR
    for milliseconds in (-1, 0, WINDOW_MILLISECONDS - 1, WINDOW_MILLISECONDS):
        log.message(f"m{milliseconds}", occurred_at=NOON + milliseconds, body=None, segments=3)
    windows = run(log).effects.windows
    cell = ("sms", "outbound", "US", "")
    assert {start - NOON: cells for (_, start), (_, cells) in windows.items()} == {
        -WINDOW_MILLISECONDS: {cell: [1, 3, 3, 3_000_000]},
        0: {cell: [2, 6, 6, 6_000_000]},
        WINDOW_MILLISECONDS: {cell: [1, 3, 3, 3_000_000]},
    }


def test_a_late_message_goes_to_its_window_while_that_is_held() -> None:
    log = log_of()
    log.message("m1")
    log.now = NOON + WINDOW_MILLISECONDS + HOLD - 1
    log.message("m2", occurred_at=NOON)
    worker = run(log, rules(window_milliseconds=HOLD))
    assert worker.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [2, 2, 2, 2_000_000]}
    assert not worker.effects.recomputed


def test_later_its_window_is_summed_anew_and_it_has_an_entry_of_its_own() -> None:
    log = log_of()
    log.message("m1")
    log.now = NOON + WINDOW_MILLISECONDS + HOLD
    log.message("m2", occurred_at=NOON)
    worker = run(log, rules(window_milliseconds=HOLD))
    assert worker.effects.recomputed == {("acme", NOON)}
    assert worker.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [1, 1, 1, 1_000_000]}
    usage = [entry for entry in worker.effects.entries.values() if entry.window_start == NOON]
    assert {entry.kind: (entry.amount, entry.offset) for entry in usage} == {
        "usage": (-1_000_000, 1),
        "late_usage": (-1_000_000, 2),
    }


def test_windows_are_let_go_when_nothing_adds_to_them_any_more() -> None:
    worker = Worker(rules(window_milliseconds=HOLD))
    log = log_of()
    log.message("m1")
    worker.take(log.records)
    worker.keep()
    assert len(worker.tables.windows) == 1
    log.tick(NOON + WINDOW_MILLISECONDS + HOLD + HOUR)
    worker.take(log.records[-1:])
    worker.keep()
    assert len(worker.tables.windows) == 1, "a crash would replay what added to it"
    worker.keep()
    assert not worker.tables.windows


def test_a_window_let_go_is_not_begun_anew_by_a_replay() -> None:
    """A long stretch of log time in one checkpoint, and a crash before its accounts are written."""
    given = rules(window_milliseconds=HOLD)
    log = log_of()
    log.message("m1")
    log.now = NOON + HOLD
    log.message("m2", occurred_at=NOON)
    log.now = NOON + 3 * DAY
    log.messages(1)
    worker = Worker(given)
    worker.take(log.records[:2])
    worker.keep()
    worker.take(log.records[2:])
    changes = worker.checkpoint()
    worker.write(changes, len([write for write in writes(changes) if write[0] != "accounts"]))
    again = Worker(given, worker.tables, worker.effects)
    again.take(log.records[2:])
    again.keep()
    assert again.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [2, 2, 2, 2_000_000]}


# Checkpoints.


def test_a_checkpoint_writes_what_was_touched_and_no_more() -> None:
    worker = Worker(rules())
    log = Log()
    for tenant in ("acme", "bolt"):
        log.set_plan(tenant=tenant)
    worker.take(log.records)
    assert worker.keep().accounts.keys() == {b"acme", b"bolt"}
    log.message(tenant="bolt")
    worker.take(log.records[2:])
    changes = worker.checkpoint()
    assert changes.accounts.keys() == {b"bolt"}
    assert len(changes.windows) == 1
    assert changes.applied_offset == 2
    worker.write(changes)
    changes = worker.checkpoint()
    assert not changes.accounts
    assert not changes.windows
    assert not changes.identities


def test_a_checkpoint_in_a_replay_ends_where_the_replay_is() -> None:
    """Not where the identities are, which were kept before the crash."""
    log = log_of()
    log.messages(4)
    worker = Worker(rules())
    worker.take(log.records)
    changes = worker.checkpoint()
    worker.write(changes, 1)
    again = Worker(worker.rules, worker.tables, worker.effects)
    again.take(log.records[:2])
    assert again.checkpoint().applied_offset == 1


def test_idle_accounts_are_let_go_and_come_back_as_they_were() -> None:
    worker = Worker(rules())
    log = log_of()
    log.message("m1")
    worker.take(log.records)
    for _ in range(3):
        worker.keep()
    assert worker.fold.accounts_held == 0
    log.message("m2")
    worker.take(log.records[-1:])
    worker.keep()
    assert worker.account().balance == 998_000_000


def test_every_kept_value_begins_with_the_offset_it_has_applied() -> None:
    log = log_of()
    log.messages(3)
    worker = Worker(rules())
    worker.take(log.records)
    for name, _, value, applied in writes(worker.checkpoint()):
        assert value is not None
        assert int.from_bytes(value[:8], "big") == applied == 4, name


def test_outcomes_are_the_callers_once_taken() -> None:
    worker = Worker(rules())
    log = log_of()
    log.message()
    worker.take(log.records)
    outcomes = worker.fold.take_outcomes()
    assert outcomes
    assert len(outcomes.facts) == 1
    assert not worker.fold.take_outcomes()


def test_tenants_of_one_partition_do_not_meet() -> None:
    """What one tenant sends changes nothing of another's, but for the partition's own time."""
    alone, together = Log(), Log()
    for log in (alone, together):
        log.set_plan()
    together.set_plan(tenant="bolt")
    for number in range(5):
        alone.message(f"m{number}")
        together.message(f"m{number}", tenant="bolt")
        together.message(f"m{number}")
    one, two = run(alone).account(), run(together).account()
    assert (one.balance, one.periods) == (two.balance, two.periods)


def test_a_fold_reads_state_only_of_its_own_tenants() -> None:
    asked = []

    def load(key: bytes) -> bytes | None:
        asked.append(key)

    given = rules(partitions=32)
    fold = PartitionFold(partition_of(b"acme", 32), given, load, lambda _: None)
    log = log_of()
    log.message()
    log.message(tenant="bolt")
    fold.fold(fold.admit(log.records))
    assert asked == [b"acme"]
    assert len(fold.take_outcomes().forwards) == 1


def test_nothing_is_kept_of_a_refused_record() -> None:
    log = Log()
    log.message()
    worker = run(log)
    assert worker.tables == Tables()
