"""Kept values say which state version they are of; older ones are read, newer ones stop everything."""

from copy import deepcopy

import msgspec
import pytest

from pipeline.core import kept
from pipeline.core.account import Account, PlanInForce
from pipeline.core.identity_deltas import NEVER_AT, IdentityDelta, decode_delta, delta_key
from pipeline.core.kept import (
    STATE_VERSION,
    KeptValueError,
    StateVersionError,
    check_versions,
    decode_kept,
    encode_kept,
)
from pipeline.core.usage import Window
from tests.builders import Tables
from tests.golden.kept_states import (
    DIRECTORY,
    KEPT_RECORDS,
    TABLES,
    history,
    kept_by,
    shape,
    take,
    worker_of,
)

VERSIONS = range(1, STATE_VERSION + 1)
accounts = msgspec.msgpack.Decoder(Account)
windows = msgspec.msgpack.Decoder(Window)


def states(tables: Tables, version: int = STATE_VERSION) -> list[object]:
    """Everything in the tables as it is read, as far as a state version had it."""
    return [
        [(key, decode_kept(accounts, value)) for key, value in sorted(tables.accounts.items())],
        [(key, decode_kept(windows, value)) for key, value in sorted(tables.windows.items())],
        [as_of(version, decode_delta(value)) for _, value in sorted(tables.identities.items())],
    ]


def as_of(version: int, delta: IdentityDelta) -> IdentityDelta:
    """The delta without what it and its drafts did not say yet in a state version."""
    if version < 4:
        delta.number, delta.occurred_before = 0, NEVER_AT
    if version < 3:
        for draft in (*delta.pending.values(), *delta.charged_drafts.values()):
            if draft is not None:
                draft.tenant_hash = draft.partition = -1
    return delta


@pytest.mark.parametrize("version", VERSIONS)
def test_values_of_every_version_up_to_the_present_one_are_read(version: int) -> None:
    worker = worker_of()
    take(worker, history()[:KEPT_RECORDS])
    assert states(kept_by(version), version) == states(worker.tables, version)


def test_a_delta_of_version_4_with_the_field_that_it_had_before_its_release_is_read() -> None:
    """By the last one: a number, here 8."""
    value = bytes.fromhex(
        "000000000000000a" "04" "9d" "09" "08" "03"
        "94" "c408" "0100000000000000" "c408" "0200000000000000" "c408" "0800090000000000" "c404" "07000000"
        "92" "c400" "c400" "80" "80" "05" "06" "02" "80" "04" "08"
    )  # fmt: skip
    columns = (*(number.to_bytes(8, "little") for number in (1, 2, 9 << 16 | 8)), (7).to_bytes(4, "little"))
    assert decode_delta(value) == IdentityDelta(9, 8, 3, columns, (b"", b""), {}, {}, 5, 6, 2, {}, 4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_worker_folds_on_from_an_earlier_version_and_writes_the_present_one(version: int) -> None:
    unbroken, records = worker_of(), history()
    take(unbroken, records[:KEPT_RECORDS])
    upgraded = worker_of(kept_by(version), deepcopy(unbroken.effects))
    for worker in (unbroken, upgraded):
        take(worker, records[KEPT_RECORDS:])
        worker.effects.counts.clear()  # How repetitions are counted depends on what is held in memory.
    assert upgraded.effects == unbroken.effects
    assert states(upgraded.tables)[0] == states(unbroken.tables)[0]
    assert {value[8] for value in upgraded.tables.accounts.values()} == {STATE_VERSION}


def test_the_fixtures_have_everything_that_is_kept() -> None:
    """An empty part of the state would be read in any version."""
    tables = kept_by(1)
    held = [decode_kept(accounts, value) for value in tables.accounts.values()]
    for name in (*Account.__struct_fields__, "is_uncovered_owed"):
        assert any(getattr(account, name) for account in held), name
    assert any(period.units and period.fired for account in held for period in account.periods)
    assert {type(plan) for account in held for plan in account.plans} == {PlanInForce}
    deltas = [decode_delta(value) for value in tables.identities.values()]
    for name in ("new", "pending", "charged_drafts", "refunded"):
        assert any(getattr(delta, name) for delta in deltas), name
    assert any(delta.changed[0] for delta in deltas)
    assert any(decode_kept(windows, value).burned for value in tables.windows.values())


def test_a_change_of_shape_takes_a_new_state_version() -> None:
    """Then: raise STATE_VERSION, say in kept.py what it is, and run `python -m tests.golden.kept_states`."""
    assert shape() == (DIRECTORY / f"version_{STATE_VERSION}.txt").read_text("utf-8")


@pytest.mark.parametrize("table", TABLES)
def test_every_value_says_its_version(table: str) -> None:
    assert {value[8] for value in getattr(kept_by(STATE_VERSION), table).values()} == {STATE_VERSION}


def newer(value: bytes, version: int = STATE_VERSION + 1) -> bytes:
    """The value as a program of a later version would keep it."""
    return value[:8] + bytes([version]) + value[9:]


@pytest.mark.parametrize("version", [STATE_VERSION + 1, 0x7F, 0x8F])
def test_a_newer_value_is_not_read_and_the_error_says_what_to_do(version: int) -> None:
    value = encode_kept(5, Account("acme"))
    for read in (
        lambda: decode_kept(accounts, newer(value, version)),
        lambda: check_versions([value, None, newer(value, version), value]),
    ):
        with pytest.raises(StateVersionError) as raised:
            read()
        assert f"of version {version}, written by a newer msgmeter" in str(raised.value)
        assert f"reads versions 1 to {STATE_VERSION}" in str(raised.value)
        assert "Run the newer msgmeter" in str(raised.value)


def test_values_and_deletions_of_known_versions_pass_the_check() -> None:
    check_versions([*kept_by(1).accounts.values(), None, *kept_by(STATE_VERSION).identities.values()])
    check_versions([])


@pytest.mark.parametrize("damage", [b"", b"\x05", b"\x93\xa6secret", b"\x92\x01\x02", b"\xc1"])
def test_a_damaged_value_is_named_by_table_and_key_and_never_shown(damage: bytes) -> None:
    head = encode_kept(5, Account("acme"))[:9]
    for decoder, table in ((accounts, "accounts, under its tenant"), (windows, "windows, under its start")):
        with pytest.raises(KeptValueError, match=f"a value of table {table}.* is damaged") as raised:
            decode_kept(decoder, head + damage)
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(KeptValueError, match="table ids"):
        decode_delta(head + damage)


def test_a_value_without_a_version_is_nobodys() -> None:
    with pytest.raises(KeptValueError, match="shorter than 9 bytes"):
        check_versions([bytes(8)])


def test_a_program_of_the_next_version_reads_what_this_one_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    value = encode_kept(5, Account("acme", organization="group"))
    monkeypatch.setattr(kept, "STATE_VERSION", STATE_VERSION + 1)
    assert decode_kept(accounts, value).organization == "group"
    assert encode_kept(5, Account("acme"))[8] == STATE_VERSION + 1
    assert decode_delta(kept_by(1).identities[(0).to_bytes(2, "big") + delta_key(0)]).number == 0
