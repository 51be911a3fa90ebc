"""Which record charges a message, what is remembered of it, for how long, and what a restart finds."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pipeline.core import identity
from pipeline.core.identity import IdentityIndex, message_key
from pipeline.core.identity_deltas import Draft, decode_delta, delta_key, encode_delta
from pipeline.core.refusals import Refusal
from tests.builders import AT, DAY, HOUR, MINUTE, NOON, Log, Worker, rules, run

HOLD, WAIT = 24 * HOUR, 72 * HOUR


@pytest.fixture
def small_deltas() -> Iterator[None]:
    """Every checkpoint seals its delta."""
    before = identity.SEALED_WEIGHT
    identity.SEALED_WEIGHT = 1
    yield
    identity.SEALED_WEIGHT = before


def make_index(**bounds: int) -> IdentityIndex:
    given = {
        "hold_milliseconds": HOLD,
        "limit": 1_000_000,
        "pending_milliseconds": WAIT,
        "pending_limit": 1000,
    }
    return IdentityIndex(**given | bounds)


def key_of(number: int) -> bytes:
    return message_key("acme", "gateway", str(number))


def draft_of(offset: int, **fields: Any) -> Draft:
    return Draft(first_received_at=NOON, first_offset=offset, fingerprint=7, **fields)


def charge(index: IdentityIndex, *offsets: int, at: int = NOON, **fields: Any) -> None:
    """Charges one identity per offset, and folds up to the last."""
    for offset in offsets:
        index.charge(key_of(offset), offset, 8, 7, at, at, **fields)
    index.advance(offsets[-1])


def keep(index: IdentityIndex, table: dict[bytes, bytes], now: int = NOON) -> dict[bytes, bytes | None]:
    """A checkpoint, written."""
    index.evict(now)
    changes = index.checkpoint(now)
    write(table, changes)
    return changes


def write(table: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        table.pop(key, None) if value is None else table.update({key: value})


def loaded(table: dict[bytes, bytes], **bounds: int) -> IdentityIndex:
    index = make_index(**bounds)
    index.load(table.values())
    return index


# The index.


def test_identity_is_tenant_source_and_id() -> None:
    parts = ("a", "b", "c")
    assert message_key(*parts) == message_key(*parts)
    assert (
        len({message_key(*each) for each in (parts, ("ab", "", "c"), ("a", "bc", ""), ("c", "b", "a"))}) == 4
    )


def test_a_charged_identity_is_found_with_what_is_known_of_it() -> None:
    index = make_index()
    charge(index, *range(5000))
    assert len(index) == 5000
    for offset in range(0, 5000, 97):
        slot = index.find(key_of(offset))
        assert (index.charged_by(slot), index.fingerprint_of(slot)) == (offset, 7)
    assert index.find(key_of(5000)) == -1


def test_a_status_is_new_once() -> None:
    index = make_index()
    charge(index, 0)
    slot = index.find(key_of(0))
    assert not index.saw_status(slot, 8)
    assert index.saw_status(slot, 16)
    assert not index.saw_status(slot, 16)


def test_memory_is_some_forty_bytes_an_identity() -> None:
    index = make_index()
    charge(index, *range(100_000))
    assert index.held_bytes <= 40 * 100_000


@pytest.mark.usefixtures("small_deltas")
def test_a_restart_finds_what_was_kept() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    charge(index, 0, 1)
    keep(index, table)
    index.saw_status(index.find(key_of(0)), 16)
    charge(index, 2)
    index.keep(key_of(9), draft_of(3, segments=2), NOON)
    index.advance(3)
    keep(index, table)
    again = loaded(table)
    assert again.applied_offset == 3
    assert [again.charged_by(again.find(key_of(number))) for number in range(3)] == [0, 1, 2]
    assert not again.saw_status(again.find(key_of(0)), 16), "a status seen later is remembered too"
    assert again.pending == {key_of(9): draft_of(3, segments=2)}


def test_a_quiet_checkpoint_writes_nothing() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    charge(index, 0)
    keep(index, table)
    index.advance(5)
    assert not keep(index, table)


def test_a_large_delta_is_cut_before_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value must stay under what Kafka takes."""
    monkeypatch.setattr(identity, "CUT_WEIGHT", 10)
    index = make_index()
    for start in range(0, 100, 10):
        charge(index, *range(start, start + 10))
    table: dict[bytes, bytes] = {}
    assert len(keep(index, table)) == 10
    assert len(loaded(table)) == 100


# Eviction.


@pytest.mark.usefixtures("small_deltas")
def test_identities_past_their_time_are_forgotten_and_the_horizon_says_so() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    charge(index, 0, at=NOON - HOUR)
    keep(index, table)
    charge(index, 1)
    keep(index, table)
    index.evict(NOON + HOLD - 1)
    assert index.find(key_of(0)) == -1
    assert index.find(key_of(1)) >= 0
    assert index.horizon_at == NOON - HOUR


@pytest.mark.usefixtures("small_deltas")
def test_too_many_identities_are_forgotten_oldest_first() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index(limit=2)
    for offset in range(4):
        charge(index, offset)
        keep(index, table)
    index.evict(NOON)
    assert [index.find(key_of(offset)) >= 0 for offset in range(4)] == [False, False, True, True]


@pytest.mark.usefixtures("small_deltas")
def test_nothing_is_forgotten_that_the_last_checkpoint_has_not_kept() -> None:
    """Its row may not be stored yet, and a replay may come to it again."""
    index = make_index(limit=1)
    charge(index, 0, 1, 2)
    index.evict(NOON + 10 * DAY)
    assert len(index) == 3
    keep(index, {})
    assert len(index) == 3


@pytest.mark.usefixtures("small_deltas")
def test_nothing_is_forgotten_that_a_replay_has_yet_to_come_to() -> None:
    """Only the index can tell the record that charged from a duplicate."""
    table: dict[bytes, bytes] = {}
    index = make_index(limit=1)
    charge(index, 0, 1, 2)
    keep(index, table)
    again = loaded(table, limit=1)
    again.advance(0)  # A replay that is cut after its first record.
    keep(again, table)
    keep(again, table)
    assert [again.find(key_of(offset)) >= 0 for offset in range(3)] == [True] * 3


@pytest.mark.usefixtures("small_deltas")
def test_a_delta_that_nothing_needs_is_deleted_together_with_its_horizon() -> None:
    """Without the horizon, a restart would take late statuses of its messages for new messages."""
    table: dict[bytes, bytes] = {}
    index = make_index()
    charge(index, 0)
    keep(index, table)
    index.advance(1)
    changes = keep(index, table, NOON + WAIT)
    assert list(changes.values())[-1] is None
    again = loaded(table)
    assert again.find(key_of(0)) == -1
    assert again.horizon_at == NOON


@pytest.mark.usefixtures("small_deltas")
def test_a_delta_with_a_draft_that_still_waits_is_kept() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    index.keep(key_of(0), draft_of(0, status="sent"), NOON)
    index.advance(0)
    for step in range(1, 4):
        keep(index, table, NOON + step * 10 * WAIT)
        index.advance(step)
    assert loaded(table).pending == {key_of(0): draft_of(0, status="sent")}


def test_a_delta_yet_to_be_written_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take back what an older one says: were it left out, a crash would bring that back."""
    monkeypatch.setattr(identity, "SEALED_WEIGHT", 1)
    monkeypatch.setattr(identity, "CUT_WEIGHT", 2)
    table: dict[bytes, bytes] = {}
    index = make_index(pending_limit=1)
    index.keep(key_of(0), draft_of(0), NOON)
    index.advance(0)
    keep(index, table)
    for offset in (1, 2):  # Each is waited for in the place of the one before.
        later = NOON + offset * 9 * WAIT
        index.keep(key_of(offset), Draft(first_received_at=later, first_offset=offset, fingerprint=7), later)
        index.advance(offset)
    changes = list(index.checkpoint(NOON + 99 * WAIT).items())
    for count in range(len(changes) + 1):
        held = dict(table)
        write(held, dict(changes[:count]))
        restarted = loaded(held)
        assert restarted.pending.keys() == {key_of(restarted.applied_offset)}, count


# Replays.


def test_the_draft_a_record_was_charged_with_is_there_when_it_is_replayed() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    index.keep(key_of(1), draft_of(0, segments=3), NOON)
    charge(index, 1, draft=draft_of(0, segments=3))
    keep(index, table)
    assert loaded(table).charged_drafts == {1: draft_of(0, segments=3)}


def test_a_checkpoint_in_the_middle_of_a_replay_drops_no_draft_that_it_has_yet_to_come_to() -> None:
    table: dict[bytes, bytes] = {}
    index = make_index()
    charge(index, 5, draft=draft_of(0, segments=3))
    keep(index, table)
    again = loaded(table)
    again.advance(3)
    keep(again, table)
    assert again.charged_drafts == {5: draft_of(0, segments=3)}
    again.advance(5)
    keep(again, table)
    assert not again.charged_drafts


def test_a_draft_given_up_is_not_what_a_record_was_charged_with() -> None:
    """A record that says everything itself is replayed by itself, whatever waited under its identity before."""
    index = make_index()
    index.keep(key_of(1), draft_of(0), NOON)
    charge(index, 1)
    assert not index.pending
    assert not index.charged_drafts


def test_after_a_pause_of_one_of_two_workers_the_longer_memory_is_taken() -> None:
    """One sealed two identities, the other three; the first one's next delta begins within the other's."""
    table: dict[bytes, bytes] = {}
    slow, quick = make_index(), make_index()
    charge(slow, 0, 1)
    slow.checkpoint(NOON + HOUR)
    charge(slow, 2)
    write(table, slow.checkpoint(NOON + HOUR))
    charge(quick, 0, 1, 2, 3)
    write(table, quick.checkpoint(NOON))
    again = loaded(table)
    assert again.applied_offset == 3
    assert [again.charged_by(again.find(key_of(number))) for number in range(4)] == [0, 1, 2, 3]


@pytest.mark.usefixtures("small_deltas")
def test_deletions_of_a_worker_that_had_lost_the_partition_hide_no_identity() -> None:
    """The horizon they came with is in a delta that the successor has written anew."""
    table: dict[bytes, bytes] = {}
    lost = make_index()
    for offset in range(3):
        charge(lost, offset, at=NOON + offset)
        keep(lost, table)
    successor = loaded(table)
    charge(lost, 3, at=NOON + 4 * DAY)
    lost.evict(NOON + 4 * DAY)
    late = lost.checkpoint(NOON + 4 * DAY)
    deleted = {key: value for key, value in late.items() if value is None}
    assert deleted
    charge(successor, 3, 4, at=NOON + 3)
    written = keep(successor, table, NOON + 3)
    assert {key for key, value in late.items() if value is not None} <= written.keys()
    write(table, deleted)
    again = loaded(table)
    for offset in range(5):
        assert again.find(key_of(offset)) >= 0 or again.horizon_at >= NOON + offset, offset


@pytest.mark.usefixtures("small_deltas")
def test_a_delta_that_came_late_brings_no_draft_back() -> None:
    """Its draft was taken back by a delta that is deleted, as the successor knew of nothing that needed it."""
    table: dict[bytes, bytes] = {}
    lost, successor = make_index(), make_index()
    charge(lost, 0)
    lost.checkpoint(NOON)
    lost.keep(key_of(100), draft_of(1), NOON)
    lost.advance(1)
    late = lost.checkpoint(NOON)
    charge(successor, 0)
    successor.keep(key_of(100), draft_of(1), NOON)
    successor.advance(1)
    keep(successor, table)
    successor.advance(2)  # The hole charges nothing, so only its offsets are missing.
    assert successor.give_up(NOON + 4 * DAY)
    keep(successor, table, NOON + 4 * DAY)
    charge(successor, 3, at=NOON + 4 * DAY)
    keep(successor, table, NOON + 4 * DAY)
    assert not late.keys() & table.keys()
    write(table, late)
    again = loaded(table)
    assert not again.pending
    for offset in (4, 5):
        charge(again, offset, at=NOON + 4 * DAY)
        keep(again, table, NOON + 4 * DAY)
        assert not loaded(table).pending, "whoever comes next is not misled either"
    assert not late.keys() & table.keys(), "it is deleted with the next ones"


def counted_from_0(value: bytes, number: int) -> bytes:
    """The delta as programs up to state version 3 numbered it."""
    return encode_delta(msgspec.structs.replace(decode_delta(value), number=number))


@pytest.mark.usefixtures("small_deltas")
@pytest.mark.parametrize("old_ones", [8, 7, 6])
def test_a_delta_numbered_as_of_old_that_came_late_is_no_beginning_either(old_ones: int) -> None:
    """Its number is no offset, so the hole behind it shows in the identities; newer ones are numbered by offset."""
    table: dict[bytes, bytes] = {}
    index = make_index()
    for offset in range(0, 80, 10):
        charge(index, *range(offset, offset + 10))
        keep(index, table)
    values = [
        counted_from_0(value, number) if number < old_ones else value
        for number, value in enumerate(table.values())
    ]
    again = make_index()
    again.load([values[1], *values[6:]])
    assert [offset for offset in range(80) if again.find(key_of(offset)) >= 0] == list(range(60, 80))
    assert again.applied_offset == 79
    kept_on = {delta_key(decode_delta(value).number): value for value in (values[1], *values[6:])}
    for offset in (80, 81):
        charge(again, offset)
        again.evict(NOON + WAIT)
        write(kept_on, again.checkpoint(NOON + WAIT))
    assert delta_key(decode_delta(values[1]).number) not in kept_on, "it is deleted with the next ones"
    assert loaded(kept_on).find(key_of(81)) >= 0


@pytest.mark.usefixtures("small_deltas")
def test_a_delta_is_called_by_where_it_begins_however_the_log_was_cut_before() -> None:
    """Else a worker that cut otherwise would write, or delete, another part of the log under the same name."""
    often: dict[bytes, bytes] = {}
    seldom: dict[bytes, bytes] = {}
    one, other = make_index(), make_index()
    for offset in range(4):
        charge(one, offset)
        keep(one, often)
        charge(other, offset)
        if offset in (1, 3):
            keep(other, seldom)
    assert [decode_delta(value).number for value in often.values()] == [0, 1, 2, 3]
    assert [decode_delta(value).number for value in seldom.values()] == [0, 2]
    charge(one, 4)
    keep(one, often)
    again = loaded(often)
    charge(again, 5)
    (key,) = keep(again, often)
    assert key == delta_key(5), "also after a restart"


def test_after_a_pause_of_one_of_two_workers_the_later_change_is_taken() -> None:
    """The other's next delta knows less of a draft than the delta before, which goes further in the log."""
    table: dict[bytes, bytes] = {}
    slow, quick = make_index(), make_index()
    charge(slow, 0)
    slow.checkpoint(NOON + HOUR)
    slow.keep(key_of(1), draft_of(1), NOON)
    slow.advance(1)
    write(table, slow.checkpoint(NOON + HOUR))
    charge(quick, 0)
    quick.keep(key_of(1), draft_of(1, segments=3), NOON)
    quick.advance(2)
    write(table, quick.checkpoint(NOON))
    assert loaded(table).pending == {key_of(1): draft_of(1, segments=3)}


# Messages.


def charges(worker: Worker) -> list[tuple[str, int, int]]:
    """(id, offset of the charging record, segments) of all facts."""
    names = ("message_id", "kafka_offset", "segments")
    return [tuple(fact[AT[name]] for name in names) for fact in worker.effects.facts.values()]


def log_of(*fields: dict[str, Any], step: int = MINUTE) -> Log:
    """A plan and records of the message "m1", which occurred when the log began."""
    log = Log()
    log.set_plan()
    for each in fields:
        log.message(**{"occurred_at": NOON, **each})
        log.now += step
    return log


RECEIPT: dict[str, Any] = {"status": "delivered", "body": None}
ACCEPTED: dict[str, Any] = {"status": "accepted", "body": "x" * 200}


@pytest.mark.parametrize(
    ("records", "charged"),
    [
        ([{}], [("m1", 1, 1)]),
        ([{}, {}], [("m1", 1, 1)]),
        ([{}, RECEIPT], [("m1", 1, 1)]),
        ([ACCEPTED, RECEIPT], [("m1", 2, 2)]),
        ([RECEIPT, ACCEPTED], [("m1", 2, 2)]),
        ([RECEIPT, RECEIPT, ACCEPTED, RECEIPT], [("m1", 3, 2)]),
        ([ACCEPTED, {"status": "queued"}, {"status": "failed"}], []),
        ([ACCEPTED, {"status": "failed", "body": None}, RECEIPT], [("m1", 3, 2)]),
        ([RECEIPT], []),
        ([RECEIPT, {**RECEIPT, "segments": 4}], [("m1", 2, 4)]),
        ([ACCEPTED, {**RECEIPT, "segments": 4}], [("m1", 2, 4)]),
        ([{**ACCEPTED, "segments": 4}, RECEIPT], [("m1", 2, 4)]),
        ([{"body": "", "status": "delivered"}], [("m1", 1, 1)]),
        (
            [{"body": None, "kind": "mms"}, {"body": None, "kind": "mms", "status": "delivered"}],
            [("m1", 1, 0)],
        ),
        ([{"direction": "inbound", "status": "received"}], [("m1", 1, 1)]),
    ],
)
def test_a_message_is_charged_once_by_the_first_record_that_completes_it(
    records: list[dict[str, Any]], charged: list[tuple[str, int, int]]
) -> None:
    worker = run(log_of(*records))
    assert charges(worker) == charged
    assert not worker.effects.refusals


def test_a_retry_with_a_new_status_time_is_the_same_message() -> None:
    worker = run(log_of({}, {"status_at": NOON + HOUR}, step=2 * HOUR))
    assert len(worker.effects.facts) == 1
    assert worker.effects.counts["duplicates"] == 1


def test_the_same_id_of_another_tenant_or_source_is_another_message() -> None:
    log = log_of({}, {"source": "other"})
    log.set_plan(tenant="bolt")
    log.message(tenant="bolt")
    assert len(run(log).effects.facts) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"to": "+4915112345678"},
        {"from": "+1"},
        {"kind": "mms"},
        {"direction": "inbound"},
        {"occurred_at": NOON + 1},
    ],
)
@pytest.mark.parametrize("first", [{}, ACCEPTED, RECEIPT])
def test_a_record_that_contradicts_is_refused_and_changes_nothing(
    first: dict[str, Any], other: dict[str, Any]
) -> None:
    log = log_of(first, {"status": "sent", **other}, first)
    worker = run(log)
    assert worker.effects.reasons() == [Refusal.IDENTITY_CONFLICT]
    assert charges(worker) == charges(run(log_of(first)))


def test_a_receipt_that_names_another_category_before_the_charge_is_refused() -> None:
    worker = run(log_of({**ACCEPTED, "category": "campaign"}, {**RECEIPT, "category": "messaging"}, RECEIPT))
    assert worker.effects.reasons() == [Refusal.IDENTITY_CONFLICT]
    assert [fact[AT["category"]] for fact in worker.effects.facts.values()] == ["campaign"]


def test_the_first_record_tells_what_later_ones_leave_out() -> None:
    told = {"category": "campaign", "list": "vip", "campaign": "spring", "country": "DE"}
    worker = run(log_of({**ACCEPTED, **told}, RECEIPT))
    (fact,) = worker.effects.facts.values()
    assert {name: fact[AT[name]] for name in told} == told


def test_an_email_to_many_counts_all_of_them_though_its_receipt_names_none() -> None:
    worker = run(
        log_of(
            {"kind": "email", "body": None, "status": "accepted", "recipients": 500},
            RECEIPT | {"kind": "email"},
        )
    )
    (fact,) = worker.effects.facts.values()
    assert fact[AT["quantity"]] == 500


def test_content_that_never_comes_is_refused_when_the_wait_is_over() -> None:
    log = log_of(RECEIPT)
    log.now += WAIT
    log.message("m2", status="accepted")
    assert run(log).effects.reasons() == [Refusal.CONTENT_MISSING]
    assert run(log).effects.refusals[1, Refusal.CONTENT_MISSING]["retryable"] is False


def test_a_tick_ends_the_wait_where_no_other_record_does() -> None:
    log = log_of(RECEIPT)
    log.tick(NOON + WAIT - 1)
    assert not run(log).effects.refusals
    log.tick(NOON + WAIT)
    assert run(log).effects.reasons() == [Refusal.CONTENT_MISSING]


def test_content_comes_too_late_once_the_wait_is_over() -> None:
    log = log_of(RECEIPT, step=WAIT)
    log.message("m1", occurred_at=NOON, status="accepted")
    worker = run(log)
    assert worker.effects.reasons() == [Refusal.CONTENT_MISSING]
    assert not worker.effects.facts


def test_a_message_that_never_left_is_forgotten_silently() -> None:
    log = log_of(ACCEPTED, step=WAIT)
    log.message("m2", status="accepted")
    worker = run(log)
    assert not worker.effects.refusals
    assert len(worker.fold.identities.pending) == 1


def test_too_many_that_wait_push_out_the_oldest() -> None:
    log = Log()
    log.set_plan()
    for number in range(5):
        log.message(f"m{number}", **RECEIPT)
    worker = run(log, rules(pending_limit=3))
    assert sorted(worker.effects.refusals) == [(1, Refusal.CONTENT_MISSING), (2, Refusal.CONTENT_MISSING)]


LONG = {"body": "x" * (153 * 255 + 1)}


def test_a_body_of_more_than_255_segments_registers_nothing() -> None:
    worker = run(log_of(LONG, {}))
    assert worker.effects.reasons() == [Refusal.TOO_MANY_SEGMENTS]
    assert charges(worker) == [("m1", 2, 1)]


def test_a_body_that_is_too_long_is_not_learnt_from() -> None:
    worker = run(log_of(RECEIPT, {**LONG, "status": "sent"}, ACCEPTED))
    assert worker.effects.reasons() == [Refusal.TOO_MANY_SEGMENTS]
    assert charges(worker) == [("m1", 3, 2)]


def test_the_gateways_count_is_preferred_to_a_body_that_is_too_long() -> None:
    worker = run(log_of({**LONG, "segments": 200}))
    assert charges(worker) == [("m1", 1, 200)]
    assert worker.effects.counts["segments_differ"] == 1


def test_a_message_without_a_plan_is_retryable_and_registers_nothing() -> None:
    log = Log()
    log.message()
    log.set_plan(effective_at=NOON - DAY)
    log.message()
    worker = run(log)
    ((_, refusal),) = worker.effects.refusals.items()
    assert (refusal["reason"], refusal["retryable"], refusal["offset"]) == (Refusal.PLAN_MISSING, True, 0)
    assert charges(worker) == [("m1", 2, 1)]


def test_an_evicted_message_is_looked_up_and_neither_charged_nor_lost() -> None:
    given = rules(identity_limit=1, identity_milliseconds=HOUR)
    worker = Worker(given)
    log = log_of({})
    for number in range(3):
        log.now += 30 * HOUR
        log.message(f"n{number}")
    for record in log.records:
        worker.take([record])
        worker.keep()
    late = Log(log.now)
    late.records = list(log.records)
    late.message(occurred_at=NOON, status="delivered")
    late.message(occurred_at=NOON, status="delivered", to="+4915112345678")
    (first, conflict) = late.records[-2:]
    admitted = worker.fold.admit([first])
    assert [key for _, key in worker.fold.look_ups(admitted)] == [message_key("acme", "gateway", "m1")]
    worker.take([first, conflict])
    worker.keep()
    assert worker.effects.counts["duplicates"] == 1
    assert worker.effects.reasons() == [Refusal.IDENTITY_CONFLICT]
    assert len(worker.effects.facts) == 4


def test_nothing_is_looked_up_while_everything_is_held() -> None:
    worker = Worker(rules())
    log = log_of({}, RECEIPT, {"occurred_at": NOON - 20 * DAY})
    assert not worker.fold.look_ups(worker.fold.admit(log.records))


# Refunds, for their replays.


def test_a_refund_is_remembered_until_no_replay_can_come_to_it() -> None:
    """Also where nothing but refunds of what is no longer held is in its delta, and much time passes."""
    table: dict[bytes, bytes] = {}
    index = make_index()
    index.advance(1)
    index.refund(2, ("fact", b"key", 1, {}))
    index.advance(2)
    written = {key for key, value in keep(index, table, NOON + HOUR).items() if value}
    again = loaded(table)
    assert again.refunded == {2: ("fact", b"key", 1, {})}
    again.advance(1)  # The replay has not come to the refund yet.
    later = NOON + 1000 * DAY
    assert written.isdisjoint(key for key, value in keep(again, table, later).items() if value is None)
    assert loaded(table).refunded == again.refunded == {2: ("fact", b"key", 1, {})}
    again.advance(2)
    keep(again, table, later)
    assert not again.refunded


def test_a_delta_with_many_refunds_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest value that Kafka takes bounds it."""
    monkeypatch.setattr(identity, "CUT_WEIGHT", 10 * identity.REFUND_WEIGHT)
    index = make_index()
    for offset in range(95):
        index.refund(offset, ("fact",))
        index.advance(offset)
    assert len(index.checkpoint(NOON)) == 10
