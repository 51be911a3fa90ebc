# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""Faults between the driver and ClickHouse: no row is lost or stored twice, and no cut answer is believed."""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import LATER_SECONDS, SOON_SECONDS, ask, connect, insert
from pipeline.clickhouse.facts import FACTS, stored_charges
from pipeline.clickhouse.migrate import applied_migrations, apply_migrations
from pipeline.clickhouse.queries import usage_by_period
from pipeline.clickhouse.snapshots import USAGE
from pipeline.core.refunds import refund_key
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.errors import Transient
from pipeline.stream import storing
from pipeline.stream.until_stored import UntilStored
from pipeline.traffic import Traffic
from tests.contracts.clickhouse_rows import NOON, columns_of, facts, key_of
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import log_now
from tests.faults.kinds import FAULTS, Fault, cut, ended_early, stall, trickle
from tests.faults.proxy import FaultProxy

SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))
MANY = 10
"""More often than the driver tries by itself."""


@pytest.fixture(scope="module")
def database_url(clickhouse: EmbeddedClickHouse) -> Iterator[str]:
    """A migrated database of this module, without the proxy."""
    name = f"faults_{uuid.uuid4().hex[:10]}"
    client = connect(clickhouse.url)
    client.command(f"CREATE DATABASE {name}")
    yield f"{clickhouse.url}/{name}"
    client.command(f"DROP DATABASE {name}")
    client.close()


@pytest.fixture(scope="module")
def straight(database_url: str) -> Iterator[Client]:
    """A client that does not go through the proxy."""
    client = connect(database_url)
    apply_migrations(client)
    # A merge would hide what was stored twice.
    client.command("SYSTEM STOP MERGES rated_messages")
    yield client
    client.close()


@pytest.fixture
def proxy(clickhouse: EmbeddedClickHouse) -> Iterator[FaultProxy]:
    with FaultProxy(clickhouse.host, clickhouse.port) as running:
        yield running


def through(proxy: FaultProxy, database_url: str) -> str:
    """The address of the same database behind the proxy."""
    return f"{proxy.url}/{database_url.rpartition('/')[2]}"


@pytest.fixture
def client(straight: Client, proxy: FaultProxy, database_url: str) -> Iterator[Client]:
    """A client that goes through the proxy."""
    connected = connect(through(proxy, database_url))
    yield connected
    connected.close()


def rows_of(client: Client, tenant: str) -> list[str]:
    """The tenant's messages as they are stored, duplicates included."""
    rows = ask(
        client,
        "SELECT message_id FROM rated_messages WHERE tenant = {tenant:String} ORDER BY message_id",
        parameters={"tenant": tenant},
    )
    return [message_id for (message_id,) in rows]


# What an error means.

_NONE = 0.0
LASTING = {
    "delay": (_NONE, _NONE),
    "drop_before": (SOON_SECONDS, SOON_SECONDS),
    "drop_after": (SOON_SECONDS, SOON_SECONDS),
    "internal_error": (LATER_SECONDS, LATER_SECONDS),
    "unavailable": (SOON_SECONDS, SOON_SECONDS),
    "request_timeout": (LATER_SECONDS, LATER_SECONDS),
    "quota": (LATER_SECONDS, LATER_SECONDS),
    "memory": (LATER_SECONDS, LATER_SECONDS),
    "too_many_parts": (LATER_SECONDS, LATER_SECONDS),
    # An insert's answer has no body that could be cut.
    "truncated": (_NONE, SOON_SECONDS),
    "truncated_head": (SOON_SECONDS, SOON_SECONDS),
    "truncated_exception": (SOON_SECONDS, LATER_SECONDS),
    "truncated_late_exception": (SOON_SECONDS, SOON_SECONDS),
    "ended_early": (_NONE, SOON_SECONDS),
    "emptied": (_NONE, SOON_SECONDS),
    "trickle": (_NONE, _NONE),
    "slow_reading": (_NONE, _NONE),
}
"""By fault: how long an insert and a look-up wait before they are done again; 0 where they succeed."""


def waits(call: Callable[[], object]) -> float:
    """How long a call that fails for a passing reason wants to wait; any other failure is one of the test."""
    try:
        call()
    except Transient as error:
        return error.retry_after_seconds
    return _NONE


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_lasting_fault_is_a_passing_error_and_says_how_long_to_wait(
    client: Client, proxy: FaultProxy, fault: Fault
) -> None:
    tenant = f"lasting {fault}"
    proxy.inject(fault, MANY)
    waited = (
        waits(lambda: insert(client, FACTS, facts(3, tenant=tenant), f"token {fault}")),
        waits(lambda: stored_charges(client, [(tenant, key_of("m1"))])),
    )
    assert waited == LASTING[fault.name]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_connecting_through_a_fault_fails_for_a_passing_reason_or_gives_a_client_that_works(
    straight: Client, proxy: FaultProxy, database_url: str, fault: Fault
) -> None:
    tenant, url = f"connecting {fault}", through(proxy, database_url)
    for faulty_requests in (1, 2, MANY):
        proxy.inject(fault, faulty_requests)
        try:
            connected = connect(url, request_timeout_seconds=5)
        except Transient:
            continue
        finally:
            proxy.calm()
        insert(connected, FACTS, facts(3, tenant=tenant), f"connecting {fault}")
        assert rows_of(connected, tenant) == ["m0", "m1", "m2"]
        connected.close()


# Rows.


async def test_every_row_is_stored_once_whatever_happens_to_its_insert(
    straight: Client, clickhouse: EmbeddedClickHouse, database_url: str
) -> None:
    async def store(fault: Fault) -> int:
        with FaultProxy(clickhouse.host, clickhouse.port) as proxy:
            # The driver itself tries twice; what makes the worker wait for long is not done again.
            proxy.inject(fault, 1 if LASTING[fault.name][0] == LATER_SECONDS else 2, only="insert")
            columns = facts(1_000, tenant=f"once {fault}")
            until_stored = UntilStored(lambda: connect(through(proxy, database_url)))
            unstorable = await until_stored(
                lambda client: storing.insert_facts(client, columns, f"once {fault}")
            )
            assert unstorable == []
            until_stored.shutdown()
            return proxy.injected[fault.name]

    injected = await asyncio.gather(*(store(fault) for fault in FAULTS))
    assert all(injected)
    expected = sorted(f"m{number}" for number in range(1_000))
    for fault in FAULTS:
        # Without FINAL: the token alone keeps a repeated insert from being stored again.
        assert rows_of(straight, f"once {fault}") == expected, fault


def test_an_insert_that_is_cut_off_anywhere_is_repeated_and_stored_once(
    straight: Client, client: Client, proxy: FaultProxy
) -> None:
    cuts = [cut(step / 20, with_reset=False) for step in range(20)]
    for number, fault in enumerate(cuts):
        proxy.inject(fault, only="insert")
        token, columns = f"cut {number}", columns_of(FACTS, {"tenant": "cut", "message_id": f"m{number:02}"})
        while waits(lambda token=token, columns=columns: insert(client, FACTS, columns, token)):
            pass
    assert rows_of(straight, "cut") == [f"m{number:02}" for number in range(20)]


# Look-ups.

CHARGED, REFUNDED, UNKNOWN = key_of("charged"), key_of("refunded"), key_of("unknown")
TENANT = "looked up"
KEYS = [(TENANT, key) for key in (CHARGED, REFUNDED, UNKNOWN)]
WINDOW = (TENANT, NOON)
QUARTER_MILLISECONDS = 900_000


@pytest.fixture(scope="module")
def _looked_up(straight: Client) -> None:
    """Two charges, one of them refunded, and what a window was before."""
    charges = (
        {"message_key": CHARGED, "message_id": "charged", "kafka_offset": 1},
        {"message_key": REFUNDED, "message_id": "refunded", "kafka_offset": 2},
        {"message_key": refund_key(REFUNDED), "message_id": "refunded", "kafka_offset": 3, "messages": 0},
    )
    insert(straight, FACTS, columns_of(FACTS, *({"tenant": TENANT, **each} for each in charges)), "looked up")
    window = {"tenant": TENANT, "window_start": NOON // 1000, "country": "FR"}
    insert(straight, USAGE, columns_of(USAGE, window), "looked up")


LOOK_UPS: dict[str, Callable[[Client], Any]] = {
    "stored_charges": lambda client: storing.look_up(client, KEYS),
    "stored_messages": lambda client: storing.look_up_messages(client, KEYS),
    "nothing is stored": lambda client: storing.look_up(client, [("nobody", UNKNOWN)]),
    "recompute": lambda client: [
        sorted(zip(*columns, strict=True)) for columns in (storing.recompute(client, {WINDOW: 9}),)
    ],
    "migrations": applied_migrations,
}
CUTS = [
    *(cut(step / 60, with_reset=False) for step in range(60)),
    # The driver waits and asks again after a reset.
    *(cut(step / 4, with_reset=True) for step in range(4)),
    *(ended_early(step / 30) for step in range(30)),
    # As the driver asks of any server that is not on this machine.
    *(ended_early(step / 30, compressed=True) for step in range(30)),
]


@pytest.mark.usefixtures("_looked_up")
@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_an_answer_that_is_cut_off_anywhere_is_never_taken_for_less(
    straight: Client,
    clickhouse: EmbeddedClickHouse,
    database_url: str,
    look_up: Callable[[Client], Any],
) -> None:
    expected = look_up(straight)
    with FaultProxy(clickhouse.host, clickhouse.port, remembers=True) as proxy:
        client = connect(through(proxy, database_url))
        answered = 0
        for fault in CUTS:
            proxy.inject(fault)
            answers: list[Any] = []
            waited = waits(lambda answers=answers: answers.append(look_up(client)))
            assert waited or answers == [expected], fault
            answered += not waited
            proxy.calm()
        client.close()
    # Those that the driver repeated by itself; had all been answered, nothing would have been cut.
    assert answered < len(CUTS) / 2
    assert proxy.injected.total() == len(CUTS)


@pytest.mark.usefixtures("_looked_up")
def test_looked_up_is_what_was_stored(straight: Client) -> None:
    """So that the answers above are not all the same "nothing"."""
    charges = LOOK_UPS["stored_charges"](straight)
    assert {key: charge.offset for key, charge in charges.items()} == {CHARGED: 1, REFUNDED: 2}
    messages = LOOK_UPS["stored_messages"](straight)
    assert {key: each.refund_offset for key, each in messages.items()} == {CHARGED: -1, REFUNDED: 3}
    assert LOOK_UPS["nothing is stored"](straight) == {}
    ((french, american),) = LOOK_UPS["recompute"](straight)
    assert (french[4], french[6], american[4], american[6]) == ("FR", 0, "US", 2)
    assert len(LOOK_UPS["migrations"](straight)) > 5


@pytest.mark.usefixtures("_looked_up")
def test_a_server_that_names_the_elements_of_rows_is_understood(straight: Client, database_url: str) -> None:
    naming = connect(database_url)
    naming.set_client_setting("enable_named_columns_in_function_tuple", "1")
    for look_up in LOOK_UPS.values():
        assert look_up(naming) == look_up(straight)
    naming.close()


@pytest.mark.usefixtures("_looked_up")
def test_figures_for_people_are_never_those_of_an_answer_without_an_end(
    client: Client, proxy: FaultProxy
) -> None:
    bounds = [NOON, NOON + QUARTER_MILLISECONDS]
    whole = usage_by_period(client, TENANT, bounds)
    assert whole
    for step in range(20):
        proxy.inject(cut(step / 20, with_reset=False))
        answers: list[Any] = []
        waited = waits(lambda answers=answers: answers.append(usage_by_period(client, TENANT, bounds)))
        assert waited or answers == [whole]


# Slowness.


def test_an_answer_that_trickles_is_waited_for_and_one_that_stands_still_is_not(
    straight: Client, proxy: FaultProxy, database_url: str
) -> None:
    impatient = connect(through(proxy, database_url), request_timeout_seconds=1)
    # Longer in all than a request may stand still.
    proxy.inject(trickle(1.5))
    insert(impatient, FACTS, facts(3, tenant="trickle"), "trickle")
    proxy.inject(trickle(1.5))
    assert len(stored_charges(impatient, [("trickle", key_of("m1"))])) == 1
    for fault in (trickle(20, pieces=10), stall(2)):
        proxy.inject(fault, only="insert")
        columns, token = facts(3, tenant=f"still {fault}"), f"still {fault}"
        assert waits(lambda columns=columns, token=token: insert(impatient, FACTS, columns, token))
        insert(impatient, FACTS, columns, token)
        assert rows_of(straight, f"still {fault}") == ["m0", "m1", "m2"]
        proxy.inject(fault, only="query")
        assert waits(lambda: stored_charges(impatient, [("trickle", key_of("m1"))]))
    impatient.close()


def test_a_request_that_nobody_reads_is_given_up_and_repeated(
    straight: Client, proxy: FaultProxy, database_url: str
) -> None:
    # While it sends, urllib3 waits as long as for a connection.
    impatient = connect(through(proxy, database_url), connect_timeout_seconds=1, request_timeout_seconds=1)
    # More than the buffers between the two hold.
    columns = facts(12, tenant="unread", campaign="x" * (1 << 20))
    proxy.inject(stall(3))
    assert waits(lambda: insert(impatient, FACTS, columns, "unread"))
    insert(impatient, FACTS, columns, "unread")
    assert len(rows_of(straight, "unread")) == 12
    impatient.close()


# A worker.


def test_a_worker_behind_a_network_of_faults_meters_what_the_simulation_says(
    make_system: MakeSystem, clickhouse: EmbeddedClickHouse, database: str
) -> None:
    print(f"FAULTS_SEED={SEED}")
    random = Random(SEED)
    quick = [fault for fault in FAULTS if LATER_SECONDS not in LASTING[fault.name]]
    faults = [*quick, *random.sample([fault for fault in FAULTS if fault not in quick], 2)]
    with FaultProxy(clickhouse.host, clickhouse.port) as proxy:
        system = make_system(clickhouse=f"{proxy.url}/{database}")
        log = log_now(
            Traffic(
                start_at=0, seed=SEED, messages=8_000, tenants=200, duplicates=0.02, late=0.02,
                malformed=0.01, purchases=0.002,
            )
        )  # fmt: skip
        proxy.disturb(random, 0.3, faults)
        worker = system.worker(identity_hours=1, pending_hours=1).start()
        gateway = system.gateway(log, records_per_second=500)
        worker.await_condition(lambda: len(proxy.injected) == len(faults), "met every fault")
        proxy.calm()
        gateway.join()
        system.await_all_committed()
        print(dict(proxy.injected), dict(proxy.passed))
        assert worker.rebalances() == 1
        system.assert_agreement(log, f"FAULTS_SEED={SEED}")
