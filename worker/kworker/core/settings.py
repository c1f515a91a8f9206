"""What an engine is told once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from kworker.core.delayed import retry_topic
from kworker.core.metadata import Alphabet
from kworker.core.ready import Order
from kworker.task import DEAD_LETTER_SUFFIX


class TopicRules(Struct, frozen=True):
    """How to read one topic: the task of records that name none, and where its dead letters go."""

    task: str | None = None
    dead_letter: str | None = None


class EngineSettings(Struct, frozen=True):
    """What an engine is told once.

    slots: how many attempts each executor may hold, running and about to run. most_records, most_bytes: of
    unfinished records in memory. alphabet: how commit metadata is written; None where the broker drops it.
    reply_topics: where a message may have its result sent. isolated: executors whose attempts cannot end this process.
    delays: whether retries may wait in the delay log of `namespace`: those longer than retry_in_memory, in seconds, if
    nothing waits for them in a lane. retry_in_lane: how long a retry may hold its lane up; longer waits are cut to it.
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
    namespace: str = "kworker"
    delays: bool = False
    retry_in_memory: float = 30.0
    retry_in_lane: float = 3600.0

    @property
    def retry_topic(self) -> str:
        """Where retries that waited in the delay log come back."""
        return retry_topic(self.namespace, self.group)

    def dead_letter(self, topic: str) -> str:
        """Where dead letters of a topic go."""
        rules = self.topics.get(topic)
        return (rules and rules.dead_letter) or topic + DEAD_LETTER_SUFFIX
