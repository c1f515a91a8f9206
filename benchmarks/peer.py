"""The contract of an adapter: a module of benchmarks/peers with PEERS, each one way to run that peer.

A peer is a command. It joins the given group, works the given topic from its earliest record until SIGTERM, commits
what is done, and ends with 0. Its tasks are the bodies of bodies.py; nothing else is asked of it, and nothing is
measured inside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version

from benchmarks.place import Place

Queue = Callable[[Place, Iterable[bytes]], AbstractContextManager[Callable[[], int]]]
"""Holds the payloads before a run begins; gives what counts those that are not acknowledged yet."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run one product.

    name: in tables. workloads: the names of those it takes part in. command: of its process. versions: of what it is
    made of; raises Missing when it cannot run here. settings: what a reader must know to judge it. most: tasks that a
    slow one is given, so that a run ends; None: as many as the others. queue: where its tasks wait, if not in Kafka.
    """

    name: str
    workloads: frozenset[str]
    command: Callable[[Place], list[str]]
    versions: Callable[[], str]
    settings: str
    most: int | None = None
    queue: Queue | None = None

    def tasks(self, wanted: int) -> int:
        """How many of a workload's tasks it is given."""
        return wanted if self.most is None else min(wanted, self.most)


class Missing(Exception):
    """This peer cannot run here: what is missing."""


def module(name: str) -> Callable[[Place], list[str]]:
    """The command of a peer whose adapter is also its program."""
    return lambda place: [sys.executable, "-m", name]


def of_distributions(*names: str) -> Callable[[], str]:
    """The versions of these installed distributions, and of Python."""

    def versions() -> str:
        found = [f"{name} {version(name)}" for name in names]
        return ", ".join([*found, f"Python {sys.version.split()[0]}"])

    return versions
