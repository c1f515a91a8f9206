"""The client of a command, by its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kworker.config import Config

if TYPE_CHECKING:
    from kworker.client import Client

_TIMEOUTS = ("message.timeout.ms", "delivery.timeout.ms")


def properties(config: Config) -> dict[str, str]:
    """The client's properties; a worker's own timeout of a message gives way to the client's."""
    return {name: value for name, value in config.kafka.items() if name not in _TIMEOUTS}


def client(config: Config) -> Client:
    """A client; use it as a context manager."""
    from kworker.client import Client  # late: a Kafka client takes a tenth of a second to import

    return Client(config.bootstrap, kafka=properties(config), namespace=config.namespace)
