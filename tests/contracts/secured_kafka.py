"""A broker that asks everybody who they are, with the users and ACLs that `msgmeter acls` names.

One listener takes logins by SCRAM over TLS, one takes certificates (mTLS); a plain one, whose users are
administrators, is for the broker itself and for arranging things. Users are named like roles.
"""

import shlex
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from certificates import Authority
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.access import acl_command, permissions
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.owned import LOOPBACK, free_port
from pipeline.logfile import LogRecord
from pipeline.settings import Settings

DOORS = ("sasl_tls", "tls")
SMALL = {
    "partitions": 2,
    "session_seconds": 6,
    "epoch_milliseconds": 100,
    "checkpoint_milliseconds": 500,
    "metrics_port": 0,
    "command_key": "signs commands of tests",
    "counterparty_key": "hashes counterparties of tests",
}
_MECHANISMS = {
    "scram-sha-256": ScramMechanism.SCRAM_SHA_256,
    "scram-sha-512": ScramMechanism.SCRAM_SHA_512,
}
_OCCURRED_AT = "2025-10-09T12:00:00Z"
_LOGIN_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class SecuredKafka:
    """The broker, its CA, and what a role needs to get in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "ours")
        self._port_by_door = {door: free_port() for door in DOORS}
        plain = free_port()
        certificate, key = self.authority.certify("broker", LOOPBACK)
        store = directory / "broker.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        ports = self._port_by_door
        self.broker = EmbeddedBroker(
            directory / "broker",
            plain,
            configuration={
                "listeners": f"PLAINTEXT://{LOOPBACK}:{plain},LOGIN://{LOOPBACK}:{ports['sasl_tls']},"
                f"MUTUAL://{LOOPBACK}:{ports['tls']}",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL",
                "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
                **{f"listener.name.login.{name}.sasl.jaas.config": _LOGIN_MODULE for name in _MECHANISMS},
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(store),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.file),
                "listener.name.mutual.ssl.client.auth": "required",
                # A certificate's common name is its user.
                "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                # A second by default, waited for by each who is refused.
                "connection.failed.authentication.delay.ms": "100",
            },
        )

    def start(self) -> None:
        """Start it, and make a user of each role."""
        self.broker.start()
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap_servers})
        for role in {permission.role for permission in permissions(Settings())}:
            self.set_password(role, self.password(role))

    def password(self, role: str) -> str:
        """What a role logs in with at first."""
        return f"the password of {role}"

    def set_password(self, role: str, password: str) -> None:
        """Give a user a new password, for both mechanisms."""
        changes = [
            UserScramCredentialUpsertion(role, ScramCredentialInfo(mechanism, 4096), password.encode())
            for mechanism in _MECHANISMS.values()
        ]
        for change in changes:
            for future in self.admin.alter_user_scram_credentials([change]).values():
                future.result(30)

    def grant(self, settings: Settings) -> None:
        """Set the ACLs that `msgmeter acls` lists, for all roles."""
        bindings = [
            binding
            for permission in permissions(settings)
            for binding in bindings_of(acl_command(permission, settings.kafka))
        ]
        for future in self.admin.create_acls(bindings).values():
            future.result(30)

    def settings(self, role: str, door: str = "sasl_tls", **changes: Any) -> Settings:
        """A role's settings; with certificates, or with its login."""
        given = {
            **SMALL,
            "kafka": f"{LOOPBACK}:{self._port_by_door[door]}",
            "kafka_security": door,
            "kafka_ca": str(self.authority.file),
        }
        if door == "tls":
            certificate, key = self.authority.certify(role)
            given |= {"kafka_certificate": str(certificate), "kafka_key": str(key)}
        else:
            given |= {"kafka_user": role, "kafka_password": self.password(role)}
        return Settings(**{**given, **changes})


def assert_no_secret(text: str, settings: Settings) -> None:
    """Fails where a text shows a secret of the settings, in whatever spelling it was given."""
    password = urlsplit(settings.clickhouse).password or ""
    hidden = {getattr(settings, each.name) for each in fields(Settings) if each.metadata["is_secret"]}
    hidden |= {password, unquote(password)}
    assert [secret for secret in hidden if secret and secret in text] == []


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that makes such settings."""
    return {f"MSGMETER_{each.name.upper()}": str(getattr(settings, each.name)) for each in fields(Settings)}


def message(tenant: str, identity: str) -> LogRecord:
    """An SMS of October 2025."""
    document = {
        "id": identity, "tenant": tenant, "source": "gateway", "kind": "sms", "direction": "outbound",
        "status": "sent", "status_at": _OCCURRED_AT, "occurred_at": _OCCURRED_AT, "to": "+12025550123",
        "from": "12345", "body": "hello",
    }  # fmt: skip
    return LogRecord(tenant.encode(), orjson.dumps(document))


def bindings_of(command: str) -> list[AclBinding]:
    """What kafka-acls.sh would set."""
    tool, *arguments = shlex.split(command)
    assert tool == "kafka-acls.sh"
    parser = ArgumentParser(exit_on_error=False)
    for name in ("bootstrap-server", "command-config", "allow-principal"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--resource-pattern-type", choices=["literal", "prefixed"], default="literal")
    for name in ("operation", "topic", "group"):
        parser.add_argument(f"--{name}", action="append", default=[])
    asked = parser.parse_args(arguments)
    return [
        AclBinding(
            kind,
            name,
            ResourcePatternType[asked.resource_pattern_type.upper()],
            asked.allow_principal,
            "*",
            AclOperation[operation.replace("DescribeConfigs", "describe_configs").upper()],
            AclPermissionType.ALLOW,
        )
        for kind, names in ((ResourceType.TOPIC, asked.topic), (ResourceType.GROUP, asked.group))
        for name in names
        for operation in asked.operation
    ]
