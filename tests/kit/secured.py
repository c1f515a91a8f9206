"""A broker with a second listener, beside the open one of the tests: for whoever needs a password or a certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from kit.broker import Broker, _free_ports

__all__ = ["AUTHORIZED", "AclOperation", "ResourceType", "allow", "sasl_plain", "second_listener"]

AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
"""Server properties by which users of the second listener may do what a test allows, and the tests everything."""


def second_listener(broker: Broker, name: str, protocol: str) -> str:
    """Give a broker that is not started yet another listener, and return its address."""
    address = f"127.0.0.1:{_free_ports(1)[0]}"
    for setting, more in (
        ("listeners", f",{name}://{address}"),
        ("advertised.listeners", f",{name}://{address}"),
        ("listener.security.protocol.map", f",{name}:{protocol}"),
    ):
        broker.properties[setting] += more
    return address


@contextmanager
def sasl_plain(user: str, password: str) -> Iterator[tuple[Broker, str]]:
    """A started broker, and the address where one user needs a password, and may do what a test allows."""
    broker = Broker()
    address = second_listener(broker, "SASL", "SASL_PLAINTEXT")
    broker.properties |= AUTHORIZED | {
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_{user}="{password}";',
    }
    with broker:
        yield broker, address


def allow(broker: Broker, user: str, kind: ResourceType, name: str, *operations: AclOperation) -> None:
    """Let a user do this to what has this name."""
    client = AdminClient({"bootstrap.servers": broker.bootstrap})
    bindings = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for future in client.create_acls(bindings).values():
        future.result(10)
