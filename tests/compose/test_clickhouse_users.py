"""Who may do what in ClickHouse: the users of docker/clickhouse/users.d, tried on the real engine."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from clickhouse_users import USERS, answers, engine_configuration
from docker_files import ROOT, script

from tests.grafana.dashboards import View, targets

make_secrets = script("make_secrets")
MIGRATIONS = [path.read_text("utf-8") for path in sorted((ROOT / "sql").glob("*.sql"))]
QUERIES = [path.read_text("utf-8") for path in sorted((ROOT / "sql" / "queries").glob("*.sql"))]
TABLES = sorted(set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", "".join(MIGRATIONS))))
TENANT_TABLES = sorted(
    {
        found[1]
        for text in MIGRATIONS
        if (found := re.search(r"CREATE TABLE IF NOT EXISTS (\w+)", text))
        and re.search(r"^\s+tenant ", text, re.MULTILINE)
    }
)
TENANTS = ("tenant-00001", "tenant-00002")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("secrets")
    make_secrets.make(directory)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Path:
    """The tables as `migrate` makes them with its own rights, and rows of two tenants in each that has tenants."""
    directory: Path = tmp_path_factory.mktemp("engine")
    migrate = engine_configuration(directory, "migrate", secrets)
    made = answers(
        directory / "data", migrate, ["CREATE DATABASE IF NOT EXISTS msgmeter", "USE msgmeter", *MIGRATIONS]
    )
    assert [text for succeeded, text in made if not succeeded] == []
    return directory


def rows_of_tenants(table: str) -> str:
    values = ", ".join(f"('{tenant}')" for tenant in TENANTS)
    return f"INSERT INTO msgmeter.{table} (tenant) VALUES {values}"


def tenants_in(table: str) -> str:
    return f"SELECT DISTINCT tenant FROM msgmeter.{table} FINAL ORDER BY tenant"


@pytest.fixture(scope="module")
def stored(data: Path, secrets: Path) -> Path:
    """The same, once a worker has stored rows with its own rights."""
    sink = engine_configuration(data, "sink", secrets)
    stored = answers(data / "data", sink, [rows_of_tenants(table) for table in TENANT_TABLES])
    assert [text for succeeded, text in stored if not succeeded] == []
    return data


def asked(directory: Path, user: str, secrets: Path, statements: list[str]) -> list[tuple[bool, str]]:
    folder = directory / user
    configuration = (
        folder / "config.xml" if folder.exists() else engine_configuration(directory, user, secrets)
    )
    return answers(directory / "data", configuration, statements)


def is_refused(answer: tuple[bool, str]) -> bool:
    succeeded, text = answer
    return not succeeded and bool(re.search(r"ACCESS_DENIED|\(READONLY\)", text))


def test_the_tables_of_tenants_are_found() -> None:
    assert {"rated_messages", "usage_15m", "ledger_entries", "account_snapshots"} <= set(TENANT_TABLES)
    assert {"log_eras", "schema_migrations"} <= set(TABLES) - set(TENANT_TABLES)


@pytest.mark.parametrize("user", ["reader", "grafana", "sink", "default"])
def test_who_serves_all_tenants_sees_all_rows(stored: Path, secrets: Path, user: str) -> None:
    answered = asked(stored, user, secrets, [tenants_in(table) for table in TENANT_TABLES])
    assert answered == [(True, "".join(f"{tenant}\n" for tenant in TENANTS))] * len(TENANT_TABLES)


def test_a_tenants_reader_sees_the_rows_of_that_tenant_and_no_others(stored: Path, secrets: Path) -> None:
    statements = [tenants_in(table) for table in TENANT_TABLES]
    tricks = [
        "SELECT count() FROM msgmeter.rated_messages WHERE tenant = 'tenant-00002'",
        "SELECT count() FROM msgmeter.rated_messages WHERE 1 OR tenant = 'tenant-00002'",
        "SELECT count() FROM (SELECT * FROM msgmeter.usage_15m UNION ALL SELECT * FROM msgmeter.usage_15m)",
    ]
    answered = asked(stored, "tenant_00001", secrets, [*statements, *tricks])
    assert answered[: len(statements)] == [(True, "tenant-00001\n")] * len(statements)
    assert answered[len(statements) :] == [(True, "0\n"), (True, "1\n"), (True, "2\n")]


@pytest.mark.parametrize("user", ["reader", "grafana", "tenant_00001"])
def test_readers_write_nothing_and_get_at_nothing_else(stored: Path, secrets: Path, user: str) -> None:
    statements = [
        rows_of_tenants("usage_15m"),
        "ALTER TABLE msgmeter.usage_15m DELETE WHERE 1",
        "TRUNCATE TABLE msgmeter.usage_15m",
        "DROP TABLE msgmeter.usage_15m",
        "CREATE TABLE msgmeter.more (a Int8) ENGINE = Memory",
        "SET readonly = 0",
        # Of the server's own tables only those that show what one may see anyway.
        "SELECT * FROM system.users",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ]
    for statement, answer in zip(statements, asked(stored, user, secrets, statements), strict=True):
        assert is_refused(answer), (statement, answer)


def test_queries_have_limits_that_nobody_raises(stored: Path, secrets: Path) -> None:
    for user, seconds in (("reader", 600), ("grafana", 30), ("tenant_00001", 30)):
        limit, raised = asked(
            stored,
            user,
            secrets,
            [
                "SELECT getSetting('max_execution_time')",
                f"SELECT 1 SETTINGS max_execution_time = {seconds * 20}",
            ],
        )
        assert limit == (True, f"{seconds}\n")
        assert re.search(r"\(READONLY\)|\(SETTING_CONSTRAINT_VIOLATION\)", raised[1]), (user, raised)


@pytest.mark.parametrize("user", ["reader", "grafana", "tenant_00001"])
def test_queries_may_set_what_ours_need_and_dashboards_nothing_else(
    stored: Path, secrets: Path, user: str
) -> None:
    dashboards = (ROOT / "grafana" / "dashboards").rglob("*.json")
    texts = [*QUERIES, *(path.read_text("utf-8") for path in dashboards)]
    needed = {setting for text in texts for setting in re.findall(r"\bSETTINGS (\w+ = \w+)", text)}
    assert needed
    answered = asked(stored, user, secrets, [f"SELECT 1 SETTINGS {each}" for each in sorted(needed)])
    assert answered == [(True, "1\n")] * len(needed)
    (other,) = asked(stored, user, secrets, ["SELECT 1 SETTINGS max_threads = 1"])
    assert is_refused(other) == (user != "reader")


def test_a_worker_stores_and_reads_and_does_no_more(stored: Path, secrets: Path) -> None:
    statements = [
        "DROP TABLE msgmeter.usage_15m",
        "TRUNCATE TABLE msgmeter.usage_15m",
        "ALTER TABLE msgmeter.usage_15m DELETE WHERE 1",
        "CREATE TABLE msgmeter.more (a Int8) ENGINE = Memory",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    ]
    for statement, answer in zip(statements, asked(stored, "sink", secrets, statements), strict=True):
        assert is_refused(answer), (statement, answer)


def test_migrate_makes_tables_and_takes_none_away(stored: Path, secrets: Path) -> None:
    statements = [
        "DROP TABLE msgmeter.usage_15m",
        "DROP DATABASE msgmeter",
        rows_of_tenants("usage_15m"),
        "CREATE TABLE default.more (a Int8) ENGINE = Memory",
    ]
    for statement, answer in zip(statements, asked(stored, "migrate", secrets, statements), strict=True):
        assert is_refused(answer), (statement, answer)


def test_what_the_program_asks_the_server_of_itself_is_permitted() -> None:
    """The engine permits all of it; a server with our config.d only this."""
    # Source: ContextAccess::addImplicitAccessRights of ClickHouse, of those that everybody may read.
    always = {"one", "databases", "tables", "columns", "settings"}
    text = "".join(path.read_text("utf-8") for path in (ROOT / "pipeline").rglob("*.py"))
    asked_for = set(re.findall(r"\b(?:FROM|JOIN) system\.(\w+)", text))
    assert asked_for - always
    for user in ("sink", "reader"):
        grants = {
            each.text or "" for each in ET.parse(USERS).getroot().iterfind(f"users/{user}/grants/query")
        }
        granted = {each.removeprefix("GRANT SELECT ON system.") for each in grants if " system." in each}
        assert granted == asked_for - always


def test_every_user_has_a_filter_for_each_table_of_tenants() -> None:
    """Whoever has none sees no row there, once others have one."""
    for user in ET.parse(USERS).getroot().iterfind("users/*"):
        filters = {each.tag: each.findtext("filter") for each in user.iterfind("databases/msgmeter/*")}
        if user.tag == "migrate":
            assert filters == {}
            continue
        wanted = "tenant = 'tenant-00001'" if user.tag == "tenant_00001" else "1"
        assert filters == dict.fromkeys(TENANT_TABLES, wanted), user.tag


def test_passwords_are_hashes_out_of_the_secrets_and_default_has_none_but_is_local(
    stored: Path, secrets: Path
) -> None:
    ((succeeded, rows),) = asked(
        stored,
        "default",
        secrets,
        ["SELECT name, auth_type, host_ip, host_names FROM system.users ORDER BY name"],
    )
    assert succeeded
    found = {line.split("\t")[0]: line.split("\t")[1:] for line in rows.splitlines()}
    # The engine's name for 127.0.0.1 and ::1 together.
    assert found.pop("default") == ["['no_password']", "[]", "['localhost']"]
    assert set(found) == set(make_secrets.CLICKHOUSE_USERS)
    assert {kind for kind, _, _ in found.values()} == {"['sha256_password']"}


@pytest.mark.parametrize(("user", "seen"), [("grafana", TENANTS), ("tenant_00001", TENANTS[:1])])
def test_dashboards_may_ask_all_they_ask_and_see_the_tenants_of_their_user(
    stored: Path, secrets: Path, user: str, seen: tuple[str, ...]
) -> None:
    """A tenant's own user is for the dashboard of one tenant; the plugin's time limit is sent with each query."""
    variables = {"tenant": TENANTS[0], "zone": "UTC", "granularity": "day", "search": ""}
    view = View(0, 86_400, 3_600, tuple(variables.items()))
    asked_by_it = [
        target
        for target in targets()
        if target.sql and (user == "grafana" or target.dashboard == "tenant-usage")
    ]
    found = asked(
        stored, user, secrets, ["USE msgmeter", *(view.sql(target.sql or "") for target in asked_by_it)]
    )[1:]
    assert [
        (str(target), text)
        for target, (succeeded, text) in zip(asked_by_it, found, strict=True)
        if not succeeded
    ] == []
    (top,) = (
        text
        for target, (_, text) in zip(asked_by_it, found, strict=True)
        if (target.dashboard, target.panel) == ("tenant-usage", "Top tenants")
    )
    assert tuple(line.split("\t")[0] for line in top.splitlines()) == seen
