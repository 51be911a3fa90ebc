"""More partitions in the middle of a log: what comes of it is what would have come of it without."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import msgspec
import orjson
import pytest

from pipeline.core.account import Account, Entry
from pipeline.core.eras import ERA_POSITIONS, MAX_ERA, Era, offset_of, partitions_over_eras
from pipeline.core.identity_deltas import decode_delta, encode_delta
from pipeline.core.moving import drafts_without_tenant, heir_of_account, heir_of_window, heirs, moved_delta
from pipeline.core.partitions import key_hash, partition_of
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from pipeline.core.simulation import simulate
from pipeline.core.usage import window_key
from pipeline.logfile import LogRecord, sign_plain
from pipeline.traffic import Traffic, TrafficGenerator, tenant_name
from tests.builders import (
    AT,
    COMMAND_KEY,
    HOUR,
    MINUTE,
    NOON,
    Effects,
    Log,
    Record,
    Tables,
    Worker,
    message,
    rules,
)

WAIT = 20 * MINUTE
UNTIL = NOON + 9 * HOUR


def rules_of(partitions: int, **fields: Any) -> Rules:
    bounds = {"pending_milliseconds": WAIT, "identity_milliseconds": WAIT, "window_milliseconds": HOUR}
    return rules(partitions=partitions, **bounds, **fields)


class Partitioned:
    """A log over several partitions, metered by one worker for each, and moved to more of them."""

    def __init__(self, partitions: int) -> None:
        self.era = Era()
        self.ends = [0] * partitions
        self.workers = [Worker(rules_of(partitions), partition=number) for number in range(partitions)]

    def take(self, records: Iterable[LogRecord]) -> None:
        """Appends and folds records, some per chunk, with a checkpoint after every other chunk."""
        waiting: dict[int, list[Record]] = {}
        for count, record in enumerate(records):
            number = partition_of(record.key, len(self.workers)) if record.key else 0
            offset, self.ends[number] = self.ends[number], self.ends[number] + 1
            waiting.setdefault(number, []).append(
                Record(offset, record.received_at or 0, record.key, record.value, record.headers)
            )
            if len(waiting[number]) >= 50:
                self.workers[number].take(waiting.pop(number))
                if count % 2:
                    self.workers[number].keep()
        for number, left in waiting.items():
            self.workers[number].take(left)
        for worker in self.workers:
            worker.keep()

    def repartition(self, partitions: int) -> None:
        """What `msgmeter repartition` does to kept state, between two workers' lives."""
        before = len(self.workers)
        moved = [Tables() for _ in range(partitions)]
        for number, worker in enumerate(self.workers):
            kept = worker.tables
            assert drafts_without_tenant(kept.identities.values()) == []
            for key, value in kept.accounts.items():
                moved[heir_of_account(key, partitions)].accounts[key] = value
            for key, value in kept.windows.items():
                moved[heir_of_window(key, partitions)].windows[key] = value
            for heir in heirs(number, before, partitions):
                moved[heir].identities |= dict(
                    moved_delta(key, value, heir, partitions) for key, value in kept.identities.items()
                )
        self.ends += [0] * (partitions - before)
        self.era = Era(self.era.number + 1, tuple(self.ends))
        # Each looks up what was stored before; what they store is put together by version, as the database does.
        effects = [deepcopy(self.workers[number % before].effects) for number in range(partitions)]
        given = rules_of(partitions, era=self.era)
        self.workers = [
            Worker(given, tables, stored, number)
            for number, (tables, stored) in enumerate(zip(moved, effects, strict=True))
        ]

    def ticks(self) -> list[LogRecord]:
        """One per tenant, as `simulate` has them at its end."""
        log = Log(UNTIL)
        for key in sorted(key for worker in self.workers for key in worker.tables.accounts):
            log.tenant = key.decode()
            log.command("tick", f"tick:{UNTIL}")
        return [
            LogRecord(record.key, record.value or b"", [(n, v or b"") for n, v in record.headers], UNTIL)
            for record in log.records
        ]


def totals(system: Partitioned) -> dict[str, Any]:
    """What must agree, without what names a place in the log."""
    effects = [worker.effects for worker in system.workers]
    facts = latest(effects, "facts", lambda fact: fact[AT["kafka_offset"]])
    entries = latest(effects, "entries", lambda entry: entry.offset)
    refusals = {
        (refusal["partition"], place): (refusal["reason"], refusal["digest"])
        for each in effects
        for place, refusal in each.refusals.items()
    }
    accounts = [worker.account(key.decode()) for worker in system.workers for key in worker.tables.accounts]
    return {
        "facts": sorted(map(without_place, facts.values())),
        "alerts": {alert["id"]: alert["used"] for each in effects for alert in each.alerts.values()},
        "results": {
            (result["tenant"], result["command_id"]): (result["outcome"], result["reason"])
            for each in effects
            for result in each.results.values()
        },
        "refusals": Counter(refusals.values()),
        "entries": sums((tenant, entry) for (tenant, _), entry in entries.items()),
        "accounts": {account.tenant: held(account) for account in accounts},
    }


def latest(effects: Iterable[Effects], name: str, version: Callable[[Any], int]) -> dict[Any, Any]:
    """The rows of a table that replaces by version."""
    rows: dict[Any, Any] = {}
    for each in effects:
        for place, row in getattr(each, name).items():
            if place not in rows or version(row) > version(rows[place]):
                rows[place] = row
    return rows


def simulated(records: Sequence[LogRecord]) -> dict[str, Any]:
    report = simulate(records, rules_of(1), until=UNTIL)
    return {
        "facts": sorted(map(without_place, report.facts)),
        "alerts": {alert["id"]: alert["used"] for alert in report.alerts},
        "results": {
            (result["tenant"], result["command_id"]): (result["outcome"], result["reason"])
            for result in report.results
        },
        "refusals": Counter((refusal["reason"], refusal["digest"]) for refusal in report.refusals),
        "entries": sums(report.entries),
        "accounts": {tenant: held(account) for tenant, account in report.accounts.items()},
    }


def without_place(fact: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        sorted(value.items()) if isinstance(value, dict) else value for value in fact[: AT["kafka_partition"]]
    )


def sums(entries: Iterable[tuple[str, Entry]]) -> dict[tuple[str, str], int]:
    """By tenant and kind: the ids of some entries name a place in the log."""
    totals: Counter[tuple[str, str]] = Counter()
    for tenant, entry in entries:
        totals[tenant, entry.kind] += entry.amount
    return {place: amount for place, amount in totals.items() if amount}


def held(account: Account) -> tuple[Any, ...]:
    return account.balance, account.uncovered, account.clock_at, len(account.periods), len(account.grants)


def receipt(number: int, at: int, **fields: Any) -> LogRecord:
    """Of a message that nothing else was heard of: it waits for its content."""
    tenant = tenant_name(number % 40)
    document = message(f"waits-{number}", tenant=tenant, occurred_at=NOON, **fields)
    return LogRecord(tenant.encode(), orjson.dumps(document), received_at=at)


def log_of(seed: int) -> list[LogRecord]:
    """Generated traffic, with receipts in it whose message comes 16 minutes later, or never."""
    traffic = Traffic(
        start_at=NOON,
        seed=seed,
        messages=4_000,
        tenants=40,
        records_per_second=1,
        duplicates=0.1,
        purchases=0.01,
    )
    records: list[LogRecord] = []
    for number, record in enumerate(TrafficGenerator(traffic)):
        records.append(sign_plain(record, COMMAND_KEY))
        at = record.received_at or 0
        if number % 20 == 0:
            records.append(receipt(number, at, body=None, status="delivered"))
        elif number % 40 == 1 and number > 1_000:
            records.append(receipt(number - 961, at))
    return records


@pytest.mark.parametrize("seed", range(3))
def test_a_log_that_gets_more_partitions_twice_comes_to_what_one_partition_comes_to(seed: int) -> None:
    records = log_of(seed)
    system = Partitioned(2)
    system.take(records[:1_300])
    system.repartition(4)
    system.take(records[1_300:2_600])
    system.repartition(12)
    system.take(records[2_600:])
    system.take(system.ticks())
    found, expected = totals(system), simulated(records)
    for name in expected:
        assert found[name] == expected[name], name
    assert Refusal.CONTENT_MISSING.value in {reason for reason, _ in expected["refusals"]}


# One step of it.


def delta_of(*records: Record, partition: int = 0) -> tuple[bytes, bytes]:
    """Key and value of what a worker keeps of identities after some records."""
    worker = Worker(rules_of(2), partition=partition)
    worker.take(records)
    [(key, value)] = worker.keep().identities.items()
    assert value is not None
    return key, value


def tenants_of(partition: int, partitions: int) -> list[str]:
    """Some tenants that live in a partition."""
    names = (f"tenant {number}" for number in range(99))
    return [name for name in names if partition_of(name.encode(), partitions) == partition]


def waiting_log(tenants: Iterable[str]) -> Log:
    """For each tenant a plan, a message that waits and one that is charged."""
    log = Log()
    for tenant in tenants:
        log.tenant = tenant
        log.set_plan(effective_at=NOON - HOUR)
        log.message("waits", body=None)
        log.message("charged")
    return log


def test_a_draft_moves_to_its_tenants_partition_alone_and_charged_identities_to_every_heir() -> None:
    staying, leaving = tenants_of(0, 4)[0], tenants_of(2, 4)[0]
    log = waiting_log([staying, leaving])
    key, value = delta_of(*log.records)
    before = decode_delta(value)
    assert len(before.pending) == 2
    for heir, tenant in ((0, staying), (2, leaving)):
        moved_key, moved = moved_delta(key, value, heir, 4)
        after = decode_delta(moved)
        assert moved_key == heir.to_bytes(2, "big") + key[2:]
        assert [draft.tenant_hash for draft in after.pending.values() if draft] == [key_hash(tenant.encode())]
        assert after.new == before.new
        assert moved[:8] == value[:8]


def test_that_a_message_no_longer_waits_is_told_to_every_heir() -> None:
    """A delta before may still have the draft, and the heirs read all of them."""
    log = waiting_log(tenants_of(0, 4)[:1])
    worker = Worker(rules_of(2))
    worker.take(log.records)
    worker.keep()
    log.message("waits")
    worker.take(log.records[3:])
    [(key, value)] = worker.keep().identities.items()
    assert value is not None
    for heir in (0, 2):
        assert list(decode_delta(moved_delta(key, value, heir, 4)[1]).pending.values()) == [None]


def test_a_message_given_up_after_it_moved_is_told_once_where_its_first_record_is() -> None:
    tenant = tenants_of(2, 4)[0]
    system = Partitioned(2)
    log = waiting_log([tenant])
    system.take(
        [LogRecord(each.key, each.value or b"", list(each.headers), each.timestamp) for each in log.records]
    )
    system.repartition(4)
    system.take(system.ticks())
    refusals = [refusal for worker in system.workers for refusal in worker.effects.refusals.values()]
    assert [(each["reason"], each["partition"], each["offset"]) for each in refusals] == [
        ("content_missing", 0, 1)
    ]


def test_drafts_that_an_earlier_version_kept_are_found_unless_they_were_taken_back() -> None:
    log = waiting_log(tenants_of(0, 2)[:2])
    delta = decode_delta(delta_of(*log.records)[1])
    (first, draft), (second, other) = delta.pending.items()
    assert draft is not None
    assert other is not None
    draft.tenant_hash = other.tenant_hash = -1
    later = msgspec.structs.replace(delta, applied_offset=delta.applied_offset + 1, pending={first: None})
    for values in ([delta, later], [later, delta]):
        assert drafts_without_tenant(map(encode_delta, values)) == [other]
    other.tenant_hash = 7
    assert drafts_without_tenant(map(encode_delta, [delta, later])) == []
    assert second != first


def test_accounts_and_windows_go_where_their_tenant_lives() -> None:
    for partition in range(4):
        for tenant in tenants_of(partition, 4):
            assert heir_of_account(tenant.encode(), 4) == partition
            assert heir_of_window(window_key(tenant.encode(), NOON), 4) == partition


@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 8), (4, 12), (32, 64)])
def test_the_tenants_of_a_partition_spread_over_its_heirs_and_no_others(before: int, after: int) -> None:
    found: dict[int, set[int]] = {}
    for number in range(5_000):
        key = b"%d" % number
        found.setdefault(partition_of(key, before), set()).add(partition_of(key, after))
    assert found == {partition: set(heirs(partition, before, after)) for partition in range(before)}
    for number in range(100):
        key = b"%d" % number
        assert {partition_of(key, before), partition_of(key, after)} <= partitions_over_eras(key, after)


def test_positions_ascend_over_eras_and_fit_into_an_identity() -> None:
    assert Era(0).first_position == 0
    assert Era(2, (5, 7)).first_position + 17 == 2_000_000_000_017
    assert offset_of(2_000_000_000_017) == 17
    assert Era(2, (5, 7)).first_offset(1) == 7
    assert Era(0).first_offset(1) == 0
    assert Era(MAX_ERA).first_position + ERA_POSITIONS <= 1 << 48


def test_what_comes_of_a_later_era_says_positions() -> None:
    log = waiting_log(["acme"])
    log.append(b"acme", b"no JSON")
    worker = Worker(rules(partitions=1, era=Era(1, (0,))))
    worker.take(log.records)
    worker.keep()
    [fact] = worker.effects.facts.values()
    assert fact[AT["kafka_offset"]] == ERA_POSITIONS + 2
    assert [refusal["offset"] for refusal in worker.effects.refusals.values()] == [ERA_POSITIONS + 3]
    assert [result["offset"] for result in worker.effects.results.values()] == [ERA_POSITIONS]
    assert worker.account().applied_offset == ERA_POSITIONS + 2
    assert worker.fold.identities.applied_offset == ERA_POSITIONS + 3
