"""What the dashboards ask, asked: of ClickHouse after real traffic, of a Prometheus that scraped a real worker.

The traffic is that of the billing models, which has grants, lists, quotas, contacts, alerts, refunds and money in it.
"""

import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from pipeline.cli.wording import grant_words
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.windows import bounds
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.logfile import LogRecord
from pipeline.metrics import reconcile, scheduler, stack
from pipeline.metrics.registry import Figure
from pipeline.metrics.serving import serve_metrics
from pipeline.settings import Settings
from tests.builders import HOUR, Log, instant, plan
from tests.e2e.metered_models import Metered, meter_scenarios, send_at_stated_times
from tests.e2e.system import System, delete_topics
from tests.grafana.dashboards import DASHBOARDS, Target, View, panel_target, targets
from tests.grafana.prometheus_server import PrometheusServer

Row = dict[str, Any]

SMALL = {
    "partitions": 8,
    "epoch_milliseconds": 200,
    "checkpoint_milliseconds": 1_000,
    "command_key": "signs commands of tests",
    "counterparty_key": "hashes counterparties of tests",
}


def further() -> list[LogRecord]:
    """What no scenario has.

    A request to recharge that waits, a tenant near its limit whose plan changed, and one that sends of everything
    around midnight of a zone far from UTC, where a month ends, and hears from somebody it has not sent to.
    """
    an_hour_ago = time.time_ns() // 1_000_000 - HOUR
    waits = Log(an_hour_ago, tenant="waits")
    recharge = {"level_credits": "50", "block_credits": "100", "price": "4"}
    waits.set_plan(plan("20", zone="Asia/Kathmandu", recharge=recharge, currency="USD", rates=[]))
    waits.message(segments=3, body=None)
    near = Log(an_hour_ago, tenant="near")
    near.set_plan(plan("50", zone="America/New_York"))
    near.now += 60_000
    near.set_plan(plan("100", zone="America/New_York"))
    near.messages(1, segments=93, body=None)
    midnight = Log(instant("2025-06-01"), tenant="midnight")
    licensed = {"licensed_contacts": 10, "contact_active_days": 60}
    midnight.set_plan(plan("1000", zone="Pacific/Auckland", rates=[], **licensed))
    for hour in ("2025-06-30T11:50", "2025-06-30T12:10", "2025-07-06T11:50", "2025-07-06T12:10"):
        midnight.now = instant(hour)
        for number, (kind, category) in enumerate(
            [("sms", "campaign"), ("mms", "messaging"), ("rcs", "transactional"), ("email", "other")]
        ):
            to = "ann@example.com" if kind == "email" else "+14155550100"
            named = {"list": f"list {number}", "campaign": f"campaign {number}"}
            midnight.message(f"{hour} {kind}", kind=kind, category=category, to=to, **named)
        midnight.message(
            f"{hour} in", direction="inbound", status="received", from_="+4915155550100", to="Acme"
        )
    midnight.now = instant("2025-07-07")
    midnight.command("allocate", list="list 1", credits="10")
    return [
        LogRecord(record.key, record.value, [], record.timestamp, is_plain_command=bool(record.headers))
        for record in (*waits.records, *near.records, *midnight.records)
    ]


@pytest.fixture(scope="module")
def metered(
    broker: EmbeddedBroker, clickhouse: EmbeddedClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Metered]:
    """One deployment for the module: the scenarios are sent once, and only read afterwards."""
    name = f"dashboards_{uuid.uuid4().hex[:10]}"
    settings = Settings(
        kafka=broker.bootstrap_servers, clickhouse=f"{clickhouse.url}/{name}", application=name, **SMALL
    )
    delete_topics(settings)
    system = System(settings, tmp_path_factory.mktemp("dashboards"))
    system.migrate()
    metered = meter_scenarios(system, further())
    store_twice(system)
    yield metered
    system.close()
    delete_topics(settings)


def store_twice(system: System) -> None:
    """As after a crash and before a merge: every row is there twice, and must count once."""
    client = clickhouse_connect.get_client(dsn=system.settings.clickhouse, settings={"insert_deduplicate": 0})
    for table in (FACTS, USAGE, ACCOUNTS, ENTRIES, ALERTS, CONTACTS):
        client.command(f"SYSTEM STOP MERGES {table.name}")
        client.command(f"INSERT INTO {table.name} SELECT * FROM {table.name} FINAL")
        stored, counted = (
            client.command(f"SELECT count() FROM {table.name} {final}") for final in ("", "FINAL")
        )
        assert int(stored) >= 2 * int(counted) > 0, table.name
    client.close()


@pytest.fixture(scope="module")
def client(metered: Metered) -> Iterator[Client]:
    connected = clickhouse_connect.get_client(dsn=metered.system.settings.clickhouse)
    yield connected
    connected.close()


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def view(tenant: str = "paws", granularity: str = "day", starts: str = "2021-01-01", ends: str = "") -> View:
    """A reader's choice; the dashboard asks for the zone itself, so `asked` fills it in."""
    variables = {"tenant": tenant, "granularity": granularity, "search": ""}
    return View(day(starts), day(ends) if ends else int(time.time()), 86_400, tuple(variables.items()))


def with_zone(client: Client, chosen: View) -> View:
    """As the hidden variable has it."""
    (variable,) = (
        each for each in DASHBOARDS["tenant-usage"]["templating"]["list"] if each["name"] == "zone"
    )
    ((zone,),) = client.query(chosen.sql(variable["query"])).result_rows
    return View(
        chosen.starts_at, chosen.ends_at, chosen.interval_seconds, (*chosen.variables, ("zone", zone))
    )


def rows(client: Client, target: Target, chosen: View) -> list[Row]:
    """What a panel gets."""
    assert target.sql is not None
    answer = client.query(with_zone(client, chosen).sql(target.sql))
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


SQL_TARGETS = [target for target in targets() if target.sql]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", SQL_TARGETS, ids=str)
def test_every_sql_query_has_an_answer(client: Client, target: Target) -> None:
    for tenant in ("trattoria", "daily", "near"):
        if rows(client, target, view(tenant)):
            return
    pytest.fail(f"no rows for any tenant: {target}")


# The figures are those of the command line.

USED = [
    ("paws", "2025-01-10", "2025-02-28"),
    ("trattoria", "2021-03-01", "2021-12-31"),
    ("leaf-downtown", "2025-03-01", "2025-03-31"),
    ("daily-automatic", "2025-01-01", "2025-12-31"),
    ("midnight", "2025-06-20", "2025-07-06"),
]


def date_view(tenant: str, granularity: str, first: str, last: str) -> View:
    """From 08:00 to 08:00 UTC: from Los Angeles to Auckland it is the same date everywhere then."""
    variables = {"tenant": tenant, "granularity": granularity, "search": ""}
    return View(day(first) + 28_800, day(last) + 28_800, 86_400, tuple(variables.items()))


def used(metered: Metered, tenant: str, granularity: str, first: str, last: str, by: str = "") -> list[Row]:
    """What `msgmeter usage` says, credits as the numbers a chart has."""
    asked = ["usage", tenant, "--by", granularity, "--from", first, "--to", last]
    answer = metered.ask(*asked, *(["--group-by", by] if by else []))
    return [{**row, "credits": float(row["credits"])} for row in answer["usage"]]


@pytest.mark.parametrize("granularity", ["day", "week", "month"])
@pytest.mark.parametrize(("tenant", "first", "last"), USED)
def test_usage_by_period_is_what_the_command_says(
    metered: Metered, client: Client, tenant: str, first: str, last: str, granularity: str
) -> None:
    expected = used(metered, tenant, granularity, first, last)
    assert expected
    chosen = date_view(tenant, granularity, first, last)
    found = rows(client, panel_target("tenant-usage", "By $granularity"), chosen)
    measures = ("messages", "segments", "quantity", "credits")
    assert [(row["period"], *(row[name] for name in measures)) for row in reversed(found)] == [
        (row[granularity], *(row[name] for name in measures)) for row in expected
    ]


@pytest.mark.parametrize(
    ("title", "by", "measure"),
    [
        ("Credits by $granularity and kind", "kind", "credits"),
        ("Segments by $granularity and kind", "kind", "segments"),
        ("Messages by $granularity and direction", "direction", "messages"),
        ("Credits by $granularity and type", "type", "credits"),
    ],
)
@pytest.mark.parametrize("granularity", ["day", "week", "month"])
@pytest.mark.parametrize(("tenant", "first", "last"), [USED[1], USED[-1]])
def test_bars_are_what_the_command_says_and_no_period_is_left_out(
    metered: Metered,
    client: Client,
    tenant: str,
    first: str,
    last: str,
    granularity: str,
    title: str,
    by: str,
    measure: str,
) -> None:
    expected = {
        (row[granularity], row[by]): row[measure]
        for row in used(metered, tenant, granularity, first, last, by)
        if row[measure]
    }
    bars = rows(client, panel_target("tenant-usage", title), date_view(tenant, granularity, first, last))
    found = {
        (row["period"], name): value
        for row in bars
        for name, value in row.items()
        if name != "period" and value
    }
    assert found == expected
    named = [row["period"] for row in bars]
    assert named == sorted(set(named))
    edges = bounds(granularity, date.fromisoformat(first), date.fromisoformat(last), "UTC")  # type: ignore[arg-type]
    assert len(named) == len(edges) - 1


@pytest.mark.parametrize(
    ("title", "by", "unnamed"),
    [
        ("Credits by country", "country", "??"),
        ("Credits by kind", "kind", ""),
        ("Credits by type", "type", ""),
        ("Credits by category", "category", "none"),
        ("By list", "list", "none"),
        ("By campaign", "campaign", "none"),
    ],
)
@pytest.mark.parametrize("granularity", ["week"])
@pytest.mark.parametrize(("tenant", "first", "last"), USED)
def test_what_it_was_used_for_is_what_the_command_says(
    metered: Metered,
    client: Client,
    tenant: str,
    first: str,
    last: str,
    granularity: str,
    title: str,
    by: str,
    unnamed: str,
) -> None:
    expected: Counter[str] = Counter()
    for row in used(metered, tenant, granularity, first, last, by):
        expected[row[by] or unnamed] += round(row["credits"] * 1_000_000)
    found = rows(client, panel_target("tenant-usage", title), date_view(tenant, granularity, first, last))
    assert {next(iter(row.values())): round(row["credits"] * 1_000_000) for row in found} == expected


_ALLOWANCE = re.compile(r"(allowance|rollover):\d+")
"""Ids that the dashboard names by a date; it shows others as they are."""

TENANTS = [
    "paws",
    "trattoria",
    "leaf-airport",
    "leaf-harbor",
    "daily",
    "daily-automatic",
    "agent",
    "near",
    "midnight",
]


@pytest.mark.parametrize("tenant", TENANTS)
def test_the_account_is_what_the_command_says(metered: Metered, client: Client, tenant: str) -> None:
    expected = metered.ask("balance", tenant)
    chosen = view(tenant)

    def row(title: str) -> Row:
        (found,) = rows(client, panel_target("tenant-usage", title), chosen)
        return found

    figures = row("Credits") | row("Allowance and purchases")
    assert figures == {name: float(expected[name.replace(" ", "_")]) for name in figures}
    assert len(figures) == 10
    plan_row = row("Plan and period")
    named = {"plan": "plan", "zone": "zone", "first day": "period_from", "last day": "period_to"}
    assert {name: plan_row[name] for name in named} == {name: expected[key] for name, key in named.items()}
    assert f"{plan_row['as of (UTC)'].replace(' ', 'T')}Z" == expected["as_of"]
    share = row("Used of the limit")["used"]
    limit = float(expected["limit"])
    assert share == (100 * float(expected["used"]) / limit if limit else None)


@pytest.mark.parametrize("tenant", TENANTS)
def test_what_it_holds_is_what_the_command_says(metered: Metered, client: Client, tenant: str) -> None:
    expected = metered.ask("balance", tenant)
    chosen = view(tenant)

    def table(title: str) -> list[tuple[Any, ...]]:
        found = rows(client, panel_target("tenant-usage", title), chosen)
        return [tuple(row.values()) for row in found]

    zone = expected["zone"]
    assert table("Grants") == [
        (
            grant["kind"],
            float(grant["amount"]),
            float(grant["remaining"]),
            in_zone(grant["starts"], zone),
            in_zone(grant["expires"], zone),
            grant_words(grant["id"], zone) if _ALLOWANCE.fullmatch(grant["id"]) else grant["id"],
        )
        for grant in expected["grants"]
        if not grant["is_expired"]
    ]
    assert table("Shares of lists") == [
        (each["list"], float(each["limit"]), float(each["spent"]), float(each["left"]))
        for each in sorted(expected["lists"], key=lambda each: each["list"])
    ]
    assert table("Quotas") == [
        (kind, its["included"], its["used"], its["left"]) for kind, its in sorted(expected["quotas"].items())
    ]


def in_zone(instant: str | None, zone: str) -> str:
    if instant is None:
        return "never"
    return datetime.fromisoformat(instant).astimezone(ZoneInfo(zone)).date().isoformat()


@pytest.mark.parametrize("at", ["2025-05-01T16:59:59", "2025-05-01T17:00:00", "2025-07-10T00:00:00"])
@pytest.mark.parametrize("tenant", ["daily", "midnight"])
def test_contacts_are_what_the_command_says(metered: Metered, client: Client, tenant: str, at: str) -> None:
    expected = metered.ask("contacts", tenant, "--at", f"{at}Z")
    chosen = View(day("2025-01-01"), day(at), 3600, (("tenant", tenant), ("granularity", "day")))
    (found,) = rows(client, panel_target("tenant-usage", "Contacts"), chosen)
    assert found == {name: expected[name] for name in ("licensed", "active", "inactive", "available")}


def test_alerts_of_a_tenant_are_those_that_are_stored(client: Client) -> None:
    stored = client.query(
        "SELECT level, used_micros / 1000000 FROM alerts FINAL WHERE tenant = 'near' ORDER BY level DESC"
    ).result_rows
    found = rows(client, panel_target("tenant-usage", "Alerts reached"), view("near"))
    assert [(row["level"], row["used"]) for row in found] == [tuple(row) for row in stored]
    assert [row["level"] for row in found] == [90, 85, 80]


def test_the_fleet_is_the_sum_of_its_tenants(metered: Metered, client: Client) -> None:
    accounts = [metered.ask("balance", account.tenant) for _, account, _ in metered.accounts]
    (found,) = rows(client, panel_target("fleet-and-revenue", "Balance of all tenants"), view())
    for name, value in found.items():
        assert value == pytest.approx(sum(float(account[name]) for account in accounts), abs=1e-6), name
    (levels,) = rows(client, panel_target("fleet-and-revenue", "Tenants at a level or above"), view())
    assert levels == {"80 %": 1, "85 %": 1, "90 %": 1, "95 %": 0}


def test_credits_by_rate_card_are_all_credits(client: Client) -> None:
    by_card = rows(client, panel_target("fleet-and-revenue", "Credits by rate card and version"), view())
    (total,) = rows(client, panel_target("fleet-and-revenue", "Used in the time range"), view())
    assert sum(row["credits"] for row in by_card) == pytest.approx(total["credits"], abs=1e-6)
    assert sum(row["messages"] for row in by_card) == total["messages"] > 0
    assert all(row["version"] for row in by_card)


def test_money_is_what_statements_say(metered: Metered, client: Client) -> None:
    """Model A's bill of 36 in arrears, and model D's charge of 10 due and 50 for a block."""
    found = rows(
        client, panel_target("fleet-and-revenue", "Money the ledger knows"), view(granularity="month")
    )
    by_month = {(row["period"], row["kind"]): row["money"] for row in found}
    statement = metered.ask("statement", "leaf-harbor", "--period", "2025-03")
    billed = [float(each["amount"]) for each in statement["money"] if each["kind"] == "arrears"]
    assert by_month["2025-04", "arrears"] == sum(billed) == 36
    assert by_month["2025-03", "payment"] == 10


def test_a_tenant_with_a_quote_in_its_name_is_a_value(client: Client) -> None:
    chosen = view("o'hara' OR '1' = '1")
    answer = client.query(
        View(chosen.starts_at, chosen.ends_at, 3600, (*chosen.variables, ("zone", "UTC"))).sql(
            panel_target("tenant-usage", "By $granularity").sql or ""
        )
    )
    assert answer.result_rows == []


# Prometheus.


@pytest.fixture(scope="module")
def prometheus(metered: Metered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """It scrapes the worker; and the other processes' own definitions, with values that a test gives them."""
    scheduler.FLEET.read_from(
        lambda: {name: _value(name, figure) for name, figure in scheduler.FLEET.figures.items()}
    )
    reconcile.RUN.read_from(
        lambda: {name: _value(name, figure) for name, figure in reconcile.RUN.figures.items()}
    )
    stack.STACK.read_from(
        lambda: {name: _value(name, figure) for name, figure in stack.STACK.figures.items()}
    )
    scheduler.LAST_ROUND.set_to_current_time()
    (worker,) = metered.system.workers
    served = {
        "msgmeter-scheduler": serve_metrics(scheduler.REGISTRY, "127.0.0.1", 0),
        "msgmeter-reconcile": serve_metrics(reconcile.REGISTRY, "127.0.0.1", 0),
        "msgmeter-stack": serve_metrics(stack.REGISTRY, "127.0.0.1", 0),
        "msgmeter-worker": worker.metrics_url(),
    }
    jobs = {job: [url.removeprefix("http://").removesuffix("/metrics")] for job, url in served.items()}
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"), jobs)
    server.await_condition(
        lambda: server.now("min(count_over_time(up[1m]) * on (job, instance) up) >= 3 and count(up) == 4"),
        "everything was scraped three times",
    )
    send_more(metered.system)
    happened = "sum(increase(msgmeter_messages_{name}_total[1m] offset 2s)) > 0"
    moved = " and ".join(happened.format(name=name) for name in ("refused", "duplicate", "unrated", "status"))
    server.await_condition(lambda: server.now(moved), "traffic was scraped")
    yield server
    server.close()


def send_more(system: System) -> None:
    """Traffic that moves counters while they are scraped: junk, a message told twice, a status, an unknown country."""
    log = Log(time.time_ns() // 1_000_000, tenant="waits")
    for message_id in ("more", "more"):
        log.message(message_id, to="+999123456")
    log.message("more", status="delivered", to="+999123456")
    junk = LogRecord(b"waits", b"{", [], log.now)
    send_at_stated_times(
        system, [junk, *(LogRecord(record.key, record.value, [], log.now) for record in log.records)]
    )


def _value(name: str, figure: Figure) -> float | Mapping[str, float]:
    """Something that can be seen: of instants now, of everything else 1."""
    if name.endswith("timestamp_seconds"):
        return time.time()
    return {"80" if figure.label == "level" else figure.label: 1.0} if figure.label else 1.0


PROMQL_TARGETS = [target for target in targets() if target.expr]
MAY_BE_EMPTY = {"Alerts", "Alerts that fire"}
"""Nothing fires here but the Watchdog, which they leave out; alerts are tested with the rules."""
EMPTY_WHERE_ALL_IS_WELL = {"on-call: Processes that answer B"}
"""`test_answering.py` asks it where something is missing."""


@pytest.mark.parametrize("target", PROMQL_TARGETS, ids=str)
def test_every_promql_query_has_an_answer(prometheus: PrometheusServer, target: Target) -> None:
    assert target.expr is not None
    ends_at = int(time.time())
    expr = View(ends_at - 120, ends_at, 1).promql(target.expr)
    if target.query.get("instant"):
        found = prometheus.now(expr)
    else:
        found = prometheus.over_time(expr, ends_at - 60, ends_at, 1)
    if str(target) in EMPTY_WHERE_ALL_IS_WELL:
        assert not found
    else:
        assert found or target.panel in MAY_BE_EMPTY
