"""kworker: background work on Kafka.

A plugin needs `task`, `schedule`, `Plugin`, `Context`, `Retry` and `Reject`; a publisher needs `Client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kworker.errors import (
    CallError,
    CallTimeout,
    ConfigError,
    DelayError,
    KworkerError,
    PluginError,
    PublishError,
    Reject,
    Retry,
    TaskFailed,
)
from kworker.plugin import Context, Plugin, TaskSpec, schedule, task
from kworker.version import __version__

if TYPE_CHECKING:
    from kworker.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "CallError",
    "CallTimeout",
    "Client",
    "ConfigError",
    "Context",
    "DelayError",
    "KworkerError",
    "Plugin",
    "PluginError",
    "PublishError",
    "Reject",
    "Retry",
    "TaskFailed",
    "TaskSpec",
    "__version__",
    "schedule",
    "task",
]


def __getattr__(name: str) -> object:
    # The Kafka client costs 50 ms to import: only those who publish pay for it.
    if name in ("Client", "AsyncClient"):
        from kworker import client

        return getattr(client, name)
    raise AttributeError(f"module 'kworker' has no attribute {name!r}")
