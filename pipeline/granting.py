"""Gives a broker the users and permissions of a deployment, as an administrator.

Takes settings, which name the topics and log in as an administrator, and passwords by role; sets what
`pipeline.access` lists, for users named like roles. Adds and replaces, never takes away: a permission that is no longer
listed stays until somebody removes it. Never shows a password.

Doing it again changes nothing, so it may be started again after any failure.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException
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

from pipeline.access import Permission, permissions
from pipeline.errors import Permanent
from pipeline.kafka_clients import Connection
from pipeline.settings import Settings

_ITERATIONS = 4096
"""The least that Kafka takes; more would only slow down the guessing of passwords that can be guessed."""
_ANSWER_SECONDS = 30
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


class AccessSetter:
    """An administrator's connection to a broker."""

    def __init__(self, settings: Settings) -> None:
        """Connects; raises `Permanent` where the login is refused, `Transient` where nobody answers."""
        self._settings = settings
        self._connection = Connection(settings)
        self._admin = AdminClient(self._connection.configuration())
        self._connection.metadata(self._admin)

    def set_passwords(self, password_by_role: Mapping[str, str]) -> None:
        """Make a user of each role, or give it another password; raises as `grant` does."""
        mechanism = ScramMechanism[self._settings.kafka_sasl_mechanism.replace("-", "_")]
        self._await(
            lambda: self._admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(
                        role, ScramCredentialInfo(mechanism, _ITERATIONS), password.encode()
                    )
                    for role, password in password_by_role.items()
                ]
            ),
            "take users",
        )

    def grant(self) -> int:
        """Let each role do what it needs; gives how many rules those are.

        Raises `Permanent` where the broker does not do so: it has no authorizer, or we are no administrator.
        """
        bindings = [
            binding for permission in permissions(self._settings) for binding in acl_bindings(permission)
        ]
        self._await(lambda: self._admin.create_acls(bindings), "take permissions")
        return len(bindings)

    def _await(self, ask: Callable[[], Mapping[Any, Future[Any]]], what: str) -> None:
        try:
            for future in ask().values():
                future.result(_ANSWER_SECONDS)
        except KafkaException as error:
            raise Permanent(
                f"Kafka at {self._settings.kafka} does not {what}: {error.args[0].str()}"
            ) from error


def acl_bindings(permission: Permission) -> list[AclBinding]:
    """One rule per name and operation, as Kafka keeps them."""
    kind = ResourceType.TOPIC if permission.resource == "topic" else ResourceType.GROUP
    pattern = ResourcePatternType.PREFIXED if permission.is_prefix else ResourcePatternType.LITERAL
    who, from_anywhere = f"User:{permission.role}", "*"
    return [
        AclBinding(kind, name, pattern, who, from_anywhere, _OPERATIONS[operation], AclPermissionType.ALLOW)
        for name in permission.names
        for operation in permission.operations
    ]
