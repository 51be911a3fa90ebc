"""docker-compose.yml: what a machine without Docker can hold it to."""

import json
import re
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from declared import (
    BUSYBOX,
    COMPOSE,
    IN_CONTAINER,
    OURS,
    PROGRAMS,
    SERVICES,
    commands,
    environment,
    host_mounts,
    repository,
)
from docker_files import DOCKERFILE, ROOT, image_environment, script

from pipeline.access import permissions
from pipeline.cli import main
from pipeline.doctor.clickhouse import TESTED_RELEASE
from pipeline.settings import Settings, load_settings

make_secrets = script("make_secrets")
ONCE = {"kafka-access", "migrate"}
EXACT = re.compile(r"(?:[\w.-]+/)*[\w.-]+:v?\d+\.\d+\.\d+[\w.-]*")
"""An image with a tag of three numbers at least; `latest`, `3.11` and no tag at all move."""
DOCUMENTED = {
    # Source: docker/examples/README.md and bin/ of Apache Kafka (kafka-server-start.sh, kafka-run-class.sh).
    "kafka": {"CLUSTER_ID", "KAFKA_HEAP_OPTS", "EXTRA_ARGS", "LOG_DIR"},
    # Source: docker/server/README.md of ClickHouse.
    "clickhouse": {"CLICKHOUSE_SKIP_USER_SETUP"},
    # Source: Grafana's "Configure Grafana" (GF_SECTION_KEY) and "Configure a Grafana Docker image" (__FILE).
    "grafana": {
        "GF_SECURITY_ADMIN_USER", "GF_SECURITY_ADMIN_PASSWORD__FILE", "GF_PLUGINS_PREINSTALL_SYNC",
        "GF_SERVER_ROOT_URL", "GF_USERS_ALLOW_SIGN_UP", "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
    },
}  # fmt: skip
"""Which variables the images of others read."""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("secrets")
    make_secrets.make(directory)
    return directory


def each_service(services: dict[str, dict[str, Any]] = SERVICES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "service"), services.items(), ids=list(services))


def test_it_is_a_compose_file() -> None:
    schema = json.loads((ROOT / "tests" / "compose" / "compose-spec.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


@each_service()
def test_an_image_has_an_exact_tag(name: str, service: dict[str, Any]) -> None:
    assert EXACT.fullmatch(service["image"])


def test_our_image_is_tagged_as_our_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    assert {service["image"] for service in OURS.values()} == {f"msgmeter:{version[1]}"}
    assert f"docker build --tag msgmeter:{version[1]} ." in DOCKERFILE


@each_service()
def test_what_is_mounted_from_the_repository_exists_and_cannot_be_written(
    name: str, service: dict[str, Any]
) -> None:
    mounts = host_mounts(service)
    assert [str(path) for path, _, _ in mounts if not path.exists()] == []
    assert {options for _, _, options in mounts} <= {"ro"}


@each_service()
def test_ports_are_opened_on_loopback_alone(name: str, service: dict[str, Any]) -> None:
    assert [
        port for port in service.get("ports", []) if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    ] == []


def test_no_port_is_opened_twice() -> None:
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))


@each_service()
def test_a_container_can_do_nothing_that_it_need_not(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("user", "") != "root"
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= set(limits)


@each_service()
def test_a_container_is_given_time_to_stop_and_is_started_again_unless_it_is_a_job(
    name: str, service: dict[str, Any]
) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) >= 30
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


@each_service()
def test_a_health_check_says_something_and_jobs_are_waited_for_instead(
    name: str, service: dict[str, Any]
) -> None:
    checked = service.get("healthcheck", {"test": re.search(r"^HEALTHCHECK", DOCKERFILE, re.MULTILINE)})
    if name in ONCE:
        assert checked == {"disable": True}
        waited = [other for other in SERVICES.values() if service_conditions(other).get(name) is not None]
        assert {service_conditions(other)[name] for other in waited} == {"service_completed_successfully"}
    elif name == "gateway":
        assert checked == {"disable": True}
    else:
        assert checked["test"]


def checks(service: dict[str, Any]) -> list[list[str]]:
    """The commands of a health check, each as its words."""
    kind, *words = service.get("healthcheck", {}).get("test", ["NONE"])
    return commands(words[0]) if kind == "CMD-SHELL" else [words] if words else []


@each_service()
def test_a_health_check_uses_programs_that_its_image_has(name: str, service: dict[str, Any]) -> None:
    assert {command[0] for command in checks(service)} <= PROGRAMS[repository(name)]


@each_service({name: each for name, each in SERVICES.items() if repository(name) in BUSYBOX})
def test_a_health_check_asks_nothing_of_busybox_that_only_gnu_knows(
    name: str, service: dict[str, Any]
) -> None:
    own = {"promtool", "amtool", "/opt/kafka/bin/kafka-broker-api-versions.sh"}
    long = [word for words in checks(service) if words[0] not in own for word in words if word[:2] == "--"]
    assert checks(service)
    assert long == []


def test_clickhouse_is_of_a_release_that_the_program_was_tested_with() -> None:
    release = re.findall(r"\d+", SERVICES["clickhouse"]["image"].rpartition(":")[2])
    assert tuple(map(int, release[:2])) == TESTED_RELEASE


def service_conditions(service: dict[str, Any]) -> dict[str, str]:
    return {name: each["condition"] for name, each in service.get("depends_on", {}).items()}


def test_a_server_is_waited_for_until_it_is_well() -> None:
    found = {
        (name, condition)
        for service in SERVICES.values()
        for name, condition in service_conditions(service).items()
        if name not in ONCE
    }
    assert found == {(name, "service_healthy") for name in ("kafka", "clickhouse", "prometheus")}


def test_kafka_can_load_its_codecs() -> None:
    """Each is a library that its jar unpacks into /tmp; Docker mounts a tmpfs with noexec."""
    (options,) = (each for each in SERVICES["kafka"]["tmpfs"] if each.startswith("/tmp:"))
    assert "exec" in options.split(":")[1].split(",")


def test_workers_can_be_several() -> None:
    worker = SERVICES["worker"]
    assert not {"container_name", "hostname", "ports"} & set(worker)
    # Without a name: a volume of each replica's own.
    assert worker["volumes"] == [image_environment()["MSGMETER_STATE_DIRECTORY"]]
    assert worker["environment"]["MSGMETER_STORE"] == "rocksdb"


def test_sample_traffic_is_asked_for() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "gateway": ["sample"]
    }


@each_service(OURS)
def test_a_process_of_ours_is_called_as_the_command_line_understands(
    name: str, service: dict[str, Any], tmp_path: Path
) -> None:
    # A directory that is there in the container alone.
    arguments = [str(tmp_path) if each == "/run/secrets" else each for each in service["command"]]
    command = main.get_command(click.Context(main), arguments[0])
    assert command is not None
    command.make_context(command.name, arguments[1:])


@each_service(OURS)
def test_the_environment_of_a_process_of_ours_is_settings_without_a_fault(
    name: str, service: dict[str, Any], secrets: Path
) -> None:
    settings = load_settings(environment(name, secrets))
    assert settings.metrics_host == "0.0.0.0"
    if name != "kafka-access":
        assert settings.kafka_user in {permission.role for permission in permissions(Settings())}
        # The development keys are everybody's.
        assert "development" not in settings.command_key + settings.counterparty_key


def test_who_folds_the_log_does_so_under_the_same_settings(secrets: Path) -> None:
    worker, reconcile = (load_settings(environment(name, secrets)) for name in ("worker", "reconcile"))
    for field in (
        "default_plan",
        "command_key",
        "counterparty_key",
        "partitions",
        "application",
        "pending_hours",
    ):
        assert getattr(worker, field) == getattr(reconcile, field)


@each_service({name: service for name, service in SERVICES.items() if name not in OURS})
def test_variables_for_an_image_of_others_are_documented_by_it(name: str, service: dict[str, Any]) -> None:
    assert set(service.get("environment", {})) == DOCUMENTED.get(name, set())


@each_service()
def test_a_secret_is_a_file_that_the_container_is_given(name: str, service: dict[str, Any]) -> None:
    given = {f"{IN_CONTAINER}{secret}" for secret in service.get("secrets", [])}
    variables = service.get("environment", {})
    named = {value for key, value in variables.items() if key.endswith("_FILE")}
    assert named <= given
    assert [key for key in variables if "PASSWORD" in key and not key.endswith("_FILE")] == []
    assert [
        "@" in value and ":" in value.split("//")[-1].split("@")[0] for value in variables.values()
    ].count(True) == 0


def test_every_secret_is_one_that_make_secrets_makes() -> None:
    made = {*make_secrets.NAMES, make_secrets.HASHES}
    declared = COMPOSE["secrets"]
    assert {name: each["file"] for name, each in declared.items()} == {
        name: f"docker/secrets/{name}" for name in declared
    }
    assert set(declared) == made - {"clickhouse_tenant_00001"}
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(declared)


def test_every_role_of_kafka_has_a_password_and_the_job_gets_them_all() -> None:
    roles = {permission.role for permission in permissions(Settings())}
    assert set(make_secrets.KAFKA_ROLES) == roles
    assert set(SERVICES["kafka-access"]["secrets"]) == {f"kafka_{role}" for role in roles}


def test_nobody_but_kafkas_own_container_hears_the_administrator() -> None:
    properties = dict(
        line.split("=", 1)
        for line in (ROOT / "docker" / "kafka" / "server.properties").read_text("utf-8").splitlines()
        if "=" in line and not line.startswith("#")
    )
    protocols = dict(pair.split(":") for pair in properties["listener.security.protocol.map"].split(","))
    open_ones = {name for name, protocol in protocols.items() if protocol == "PLAINTEXT"}
    addresses = dict(pair.split("://") for pair in properties["listeners"].split(","))
    assert {addresses[name].split(":")[0] for name in open_ones} == {"127.0.0.1"}
    assert OURS["kafka-access"]["network_mode"] == "service:kafka"
    shared = [name for name, service in SERVICES.items() if "kafka" in service.get("network_mode", "")]
    assert shared == ["kafka-access"]
    published = {port.split(":")[2] for port in SERVICES["kafka"]["ports"]}
    assert published == {addresses["HOST"].removeprefix(":")}


# What is mounted leads to what there is.


def prometheus_targets() -> set[str]:
    """host:port of all that Prometheus asks, and of the Alertmanagers that it tells."""
    config = yaml.safe_load((ROOT / "grafana" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    sections = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    fixed = {
        target for each in sections for group in each.get("static_configs", []) for target in group["targets"]
    }
    found = {
        f"{name}:{each['port']}"
        for section in sections
        for each in section.get("dns_sd_configs", [])
        for name in each["names"]
    }
    return fixed | found


def metrics_port(service: dict[str, Any]) -> str:
    """Where one of our processes serves its metrics."""
    command = service["command"]
    given = command[command.index("--metrics-port") + 1] if "--metrics-port" in command else None
    return given or str(Settings().metrics_port)


def test_prometheus_asks_every_process_of_ours_where_it_answers() -> None:
    processes = {name: service for name, service in OURS.items() if name not in {*ONCE, "gateway"}}
    ours = {f"{name}:{metrics_port(service)}" for name, service in processes.items()}
    others = {"localhost:9090", "alertmanager:9093"}
    assert prometheus_targets() == ours | others
    for name in (*processes, "alertmanager"):
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"]), name


def test_a_health_check_of_ours_asks_where_the_process_answers() -> None:
    for name, service in OURS.items():
        for each in service.get("healthcheck", {}).get("test", []):
            if each.startswith("http"):
                assert each == f"http://127.0.0.1:{metrics_port(service)}/metrics", name


def test_prometheus_and_alertmanager_find_their_files_where_they_are_mounted() -> None:
    for name in ("prometheus", "alertmanager"):
        (option,) = (each for each in SERVICES[name]["command"] if each.startswith("--config.file="))
        assert option.removeprefix("--config.file=") in {place for _, place, _ in host_mounts(SERVICES[name])}
    places = {place for _, place, _ in host_mounts(SERVICES["prometheus"])}
    config = yaml.safe_load((ROOT / "grafana" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert {f"/etc/prometheus/{Path(pattern).parent}" for pattern in config["rule_files"]} <= places


def test_grafana_finds_its_dashboards_and_its_sources_are_services() -> None:
    folder = ROOT / "grafana" / "provisioning"
    places = {place: path for path, place, _ in host_mounts(SERVICES["grafana"])}
    assert places["/etc/grafana/provisioning"] == folder
    (provider,) = yaml.safe_load((folder / "dashboards" / "msgmeter.yml").read_text("utf-8"))["providers"]
    mounted = places["/etc/grafana/dashboards"]
    assert list(
        (mounted / Path(provider["options"]["path"]).relative_to("/etc/grafana/dashboards")).glob("*.json")
    )
    sources = yaml.safe_load((folder / "datasources" / "msgmeter.yml").read_text("utf-8"))["datasources"]
    clickhouse, prometheus = sorted(sources, key=lambda source: str(source["uid"]))
    assert prometheus["url"] == "http://prometheus:9090"
    assert (clickhouse["jsonData"]["host"], clickhouse["jsonData"]["port"]) == ("clickhouse", 8123)
    assert clickhouse["jsonData"]["username"] == "grafana"
    (file,) = re.findall(r"^\$__file\{/run/secrets/(\w+)\}$", clickhouse["secureJsonData"]["password"])
    assert file in SERVICES["grafana"]["secrets"]
    plugin = SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"]
    assert re.fullmatch(rf"{clickhouse['type']}@\d+\.\d+\.\d+", plugin)
