"""What an engine is told once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from kworker.core.metadata import Alphabet
from kworker.core.ready import Order


class TopicRules(Struct, frozen=True):
    """How to read one topic: the task of records that name none, and where its dead letters go."""

    task: str | None = None
    dead_letter: str | None = None


class EngineSettings(Struct, frozen=True):
    """What an engine is told once.

    slots: how many attempts each executor may hold, running and about to run. most_records, most_bytes: of
    unfinished records in memory. alphabet: how commit metadata is written; None where the broker drops it.
    reply_topics: where a message may have its result sent. isolated: executors whose attempts cannot end this process.
    """

    group: str
    worker: str
    slots: Mapping[str, int]
    order: Order = "unordered"
    most_records: int = 20_000
    most_bytes: int = 64 * 1024 * 1024
    commit_interval: float = 1.0
    alphabet: Alphabet | None = Alphabet.WIDE
    topics: Mapping[str, TopicRules] = {}
    reply_topics: Collection[str] = ()
    isolated: Collection[str] = frozenset({"process"})
