"""Where an assigned partition starts, what its last owner left in the commit metadata, and what the broker keeps.

Everything here runs inside the assign callback, in the intake thread, and every call is bounded. Promise: before the
first record of a partition is fetched, the group knows that an owner began (the run mark), or the engine is told that
it does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position
from msgspec import structs

from kworker.core.actions import CommitItem
from kworker.core.events import Assignment
from kworker.core.mark import unpacked
from kworker.core.metadata import Alphabet, Intervals, decode, encode, filler, read
from kworker.task import TopicPartition

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_CALL = 10.0
_REFUSED = {KafkaError.OFFSET_METADATA_TOO_LARGE, KafkaError.INVALID_COMMIT_OFFSET_SIZE}
_TRIES = 6


class Positions:
    """Resolves start positions. `start_from`: earliest or latest, for a group without a committed offset.

    `probed`: told once which alphabet the broker keeps in commit metadata; None if it keeps none. `own`: a topic of the
    group's own, of which it begins with the first record whatever `start_from` says.
    """

    def __init__(self, start_from: str, probed: Callable[[Alphabet | None], None], own: str = "") -> None:
        self._start_from = start_from
        self._own = own
        self._started = int(time.time() * 1000)
        self._probed: Callable[[Alphabet | None], None] | None = probed
        self._alphabet: Alphabet | None = Alphabet.WIDE

    def resolve(self, consumer: Consumer, partitions: list[Position]) -> list[Assignment]:
        """The start of each partition, with the committed offset and its metadata.

        Raises KafkaException when the broker does not answer within a minute; the worker cannot go on then.
        """
        if not partitions:
            return []
        committed = _patiently(lambda: consumer.committed(partitions, timeout=_CALL))
        assignments = []
        for position in committed:
            if position.error is not None:
                raise KafkaException(position.error)
            name = TopicPartition(position.topic, position.partition)
            if position.offset >= 0:
                assignments.append(Assignment(name, position.offset, position.offset, position.metadata or ""))
            else:
                assignments.append(Assignment(name, self.first(consumer, name), None))
        if self._probed is not None:
            self._probe(consumer, assignments[0])
        return self._mark(consumer, assignments)

    def first(self, consumer: Consumer, name: TopicPartition) -> int:
        """Where a partition without a committed offset starts.

        The latest is what came since this worker was started, by the records' timestamps, not the end of the log: what
        is published to a new partition before it is assigned would be lost.
        """
        low, high = self._watermarks(consumer, name)
        if self._start_from != "latest" or name.topic == self._own:
            return low
        since = [Position(*name, self._started)]
        found = _patiently(lambda: consumer.offsets_for_times(since, timeout=_CALL))[0].offset
        return found if found >= 0 else high

    def beside(self, consumer: Consumer, name: TopicPartition, offset: int) -> tuple[int, int]:
        """Where to go on when the broker did not have `offset`, and how many offsets that loses.

        That is the first one the log has; or `offset` itself, when the log has it after all: a new leader may not have
        known yet how far it goes.
        """
        low, high = self._watermarks(consumer, name)
        if low <= offset <= high:
            return offset, 0
        return low, low - offset if offset < low else offset - high

    def _watermarks(self, consumer: Consumer, name: TopicPartition) -> tuple[int, int]:
        low, high = _patiently(lambda: consumer.get_watermark_offsets(Position(*name), timeout=_CALL))
        return low, high

    def _mark(self, consumer: Consumer, assignments: list[Assignment]) -> list[Assignment]:
        """Commit that an owner begins, beside what is committed already; see core/mark.py.

        Order: this is acknowledged before anything can be fetched, or a record that kills its worker at once would
        never be noticed.
        """
        if self._alphabet is None:
            return assignments
        known = [self._with_end(consumer, given) for given in assignments]
        wanted = [_begun(given, self._alphabet) for given in known]
        try:
            answers = consumer.commit(offsets=wanted, asynchronous=False) or []
        except KafkaException as error:
            answers = []
            log.warning("the begin of this life could not be committed; that comes with the next commit: %s", error)
        taken = {TopicPartition(answer.topic, answer.partition) for answer in answers if answer.error is None}
        return [
            structs.replace(given, committed=given.start)
            if given.topic_partition in taken
            else structs.replace(given, marked=False)
            for given in known
        ]

    def _with_end(self, consumer: Consumer, given: Assignment) -> Assignment:
        """The same with the end of the log, if an earlier owner ended without a word."""
        found = read(given.metadata, given.start)
        if found is None or not unpacked(found[1]).lives:
            return given
        return structs.replace(given, end=self._watermarks(consumer, given.topic_partition)[1])

    def _probe(self, consumer: Consumer, given: Assignment) -> None:
        """Write metadata as long as it can get, with the meaning of what is stored, and read it back.

        Some brokers count bytes, some drop metadata silently (Tansu 0.6): without this, finished work would be
        forgotten unnoticed, or every commit refused.
        """
        restored = decode(given.metadata, given.start)
        bounds = restored.bounds if restored else []
        name = given.topic_partition
        for alphabet in (Alphabet.WIDE, Alphabet.ASCII):
            text = filler(given.start, bounds, alphabet)
            try:
                answer = consumer.commit(offsets=[Position(*name, given.start, text)], asynchronous=False)
                if answer and answer[0].error is not None:
                    raise KafkaException(answer[0].error)
                kept = consumer.committed([Position(*name)], timeout=_CALL)[0]
            except KafkaException as error:
                if error.args[0].code() in _REFUSED:
                    continue
                log.info("commit metadata could not be probed now, so it will be later: %s", error)
                return
            if kept.metadata == text:
                self._report(alphabet)
                return
        self._report(None)

    def _report(self, alphabet: Alphabet | None) -> None:
        self._alphabet = alphabet
        if alphabet is None:
            log.warning("this broker does not keep commit metadata: after a crash, tasks that were done may run again")
        if self._probed is not None:
            self._probed(alphabet)
            self._probed = None


def _patiently(call: Callable[[], _Result]) -> _Result:
    for attempt in range(1, _TRIES):
        try:
            return call()
        except KafkaException as error:
            log.warning("the broker did not say where to start (%d of %d): %s", attempt, _TRIES, error)
            time.sleep(0.5)  # between two tries of a call that failed at once; nothing is assumed to be done by then
    return call()


def _begun(given: Assignment, alphabet: Alphabet) -> Position:
    finished, mark = read(given.metadata, given.start) or (Intervals(), b"")
    begun = unpacked(mark).begun(given.start, finished, given.end)
    text, _ = encode(given.start, finished.bounds, alphabet, begun.packed())
    return Position(*given.topic_partition, given.start, text)


def position_of(item: CommitItem) -> Position:
    """What the client commits for `item`."""
    return Position(*item.topic_partition, item.offset, item.metadata)


def listed(names: Iterable[TopicPartition]) -> str:
    """Partitions for a log line."""
    return " ".join(sorted(map(str, names)))
