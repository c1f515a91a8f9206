"""What became of one run of a schedule, as far as Kafka tells: the record in its topic, the commits of the groups that
read it, dead letters, and retries that wait.

Nothing is joined, committed or changed, and every look is bounded. Promise: what is not known is not guessed; a run is
`done` when a consumer group has completed its record, and no dead letter and no waiting retry names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient

from kworker.core.backlog import backlog
from kworker.core.delayed import ORIGIN, retry_topic
from kworker.core.wire import headers_of
from kworker.errors import DecodeError
from kworker.kafka.reader import READER, to_the_ends
from kworker.task import Headers, Record, TopicPartition

ENQUEUED = "enqueued"
"""It was published, and nothing more is known of it."""

_EACH = 3.0  # seconds that one topic is looked through for one run
_CALL = 5.0
_EARLY = 60.0  # seconds by which the clock of whoever published it may be behind
_MOST_GROUPS = 1_000
_CHUNK = 1_000


class _NotThrough(Exception):
    """There is more in a topic than can be read for this: nothing is known of what was not found."""


class Run(NamedTuple):
    """One run: its id, the topic it went to, and when it was published at the earliest, in seconds since the epoch."""

    id: str
    topic: str
    at: float


class Occurrences:
    """See the module. Use it as a context manager. consumer, admin: settings of these clients. dead_letter: the
    dead-letter topic of a topic. group: the only one that counts; '' is each that has commits of the topic. waits:
    whether a retry of this id waits in the delay log."""

    def __init__(
        self,
        consumer: Mapping[str, Any],
        admin: Mapping[str, Any],
        namespace: str,
        *,
        dead_letter: Callable[[str], str],
        waits: Callable[[str], bool],
        group: str = "",
    ) -> None:
        self._consumer = Consumer({**consumer, **READER})
        self._admin = AdminClient({"log_level": "2", **admin})
        self._namespace = namespace
        self._dead_letter = dead_letter
        self._waits = waits
        self._group = group
        self._partitions: dict[str, list[int]] = {}
        self._groups: list[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._consumer.close()

    def outcome(self, run: Run) -> str:
        """`done`, `unfinished`, `done in N of M groups`, `waits for a retry`, `dead letter: REASON` or ENQUEUED.

        Raises KafkaException or TimeoutError.
        """
        try:
            return self._outcome(run)
        except _NotThrough:
            return ENQUEUED

    def _outcome(self, run: Run) -> str:
        found = self._look(run.topic, run.at, "ce_id", run.id, first=True)
        if not found:
            return ENQUEUED
        place = _place(found[0])
        origin = f"{place[0]}/{place[1]}"
        letters = self._look(self._dead_letter(run.topic), run.at, ORIGIN, origin)
        if letters:
            reason = dict(_headers(letters[-1])).get("kworker-reason") or b""
            return f"dead letter: {reason.decode('utf-8', 'replace')[:40]}"
        finished = self._finished(self._asked(), *place)
        for group in [group for group, ended in finished.items() if ended]:
            retries = retry_topic(self._namespace, group)
            if not self._of(retries):
                continue
            again = self._look(retries, run.at, ORIGIN, origin)
            if again and not self._finished([group], *_place(again[-1])).get(group):
                finished[group] = False
            elif self._waits(f"{group}/{origin}"):
                return "waits for a retry"
        if not finished:
            return ENQUEUED
        done = sum(finished.values())
        return (
            "done" if done == len(finished) else f"done in {done} of {len(finished)} groups" if done else "unfinished"
        )

    def _finished(self, groups: Sequence[str], place: TopicPartition, offset: int) -> dict[str, bool]:
        """Whether each group has completed a record; without those that have no commit of its partition."""
        asked = {
            group: self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, [Position(*place)])], request_timeout=_CALL
            )[group]
            for group in groups
        }
        finished: dict[str, bool] = {}
        for group, answer in asked.items():
            for position in answer.result(_CALL).topic_partitions or ():
                if position.error is None and position.offset >= 0:
                    end = max(offset + 1, position.offset)
                    one = backlog(place, 0, end, position.offset, position.metadata or "")
                    finished[group] = one.is_finished(offset)
        return finished

    def _asked(self) -> Sequence[str]:
        """The groups that may read the topic: not those by which kworker keeps its own places."""
        if self._group:
            return [self._group]
        if self._groups is None:
            listed = self._admin.list_consumer_groups(request_timeout=_CALL).result(_CALL).valid
            own = self._namespace + "."
            self._groups = sorted(group.group_id for group in listed if not group.group_id.startswith(own))
        return self._groups[:_MOST_GROUPS]

    def _look(self, topic: str, since: float, header: str, value: str, *, first: bool = False) -> list[Message]:
        """The records of a topic, from this time on, whose header has this value. Raises _NotThrough."""
        wanted, found, deadline = value.encode(), list[Message](), time.monotonic() + _EACH
        times = [Position(topic, number, int((since - _EARLY) * 1000)) for number in self._of(topic)]
        starts = self._consumer.offsets_for_times(times, timeout=_CALL) if times else []
        try:
            for messages, _ in to_the_ends(self._consumer, [place for place in starts if place.offset >= 0], _CHUNK):
                if time.monotonic() > deadline:
                    raise _NotThrough
                found += [message for message in messages if dict(_headers(message)).get(header) == wanted]
                if first and found:
                    break
        finally:
            self._consumer.unassign()
        return found

    def _of(self, topic: str) -> list[int]:
        """The partitions of a topic; none when there is no such topic."""
        if topic not in self._partitions:
            about = self._consumer.list_topics(topic, timeout=_CALL).topics[topic]
            self._partitions[topic] = [] if about.error is not None else sorted(about.partitions)
        return self._partitions[topic]


def _place(message: Message) -> tuple[TopicPartition, int]:
    return TopicPartition(message.topic() or "", message.partition() or 0), message.offset() or 0


def _headers(message: Message) -> Headers:
    found = headers_of(cast(Record, message))
    return [] if isinstance(found, DecodeError) else found
