"""FAULTS.md "Faults" 33: something raises inside the client's consume(), and what it had fetched is gone.

The real Intake on a real Kafka, with one callback that raises in spite of it; the loop is played by the test.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from confluent_kafka import Message

from kit import Kafka, MakeTopic, committed, produce
from kworker.config import Config
from kworker.core.actions import CommitItem
from kworker.core.events import Assigned, Committed, EndReached, Event, FetchFailed, Polled
from kworker.kafka.consumer import Intake
from kworker.kafka.settings import consumer_settings
from kworker.task import TopicPartition

COUNT = 20_000
RAISES = 20
"""How many times the callback raises at most."""


class RaisingIntake(Intake):
    """Its on_commit callback raises into consume(), after it did its work, as long as `raising` is set.

    It fetches with a consume() that waits: the callback comes while records are in its hands, which takes the
    consume() of Intake, that does not wait, many hours to happen.
    """

    raising = True
    raised = 0

    def _fetch(self, room: int) -> list[Message]:
        self.last_poll = time.monotonic()
        return self._consumer.consume(room, 0.1)

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        guarded = super()._guarded(callback)
        if callback.__name__ != "answered":
            return guarded

        def raising(*arguments: object) -> None:
            guarded(*arguments)
            if self.raising and self.raised < RAISES:
                self.raised += 1
                raise RuntimeError("inside consume()")

        return raising


class Room:
    """Room for a few hundred records at once, always."""

    def records(self) -> int:
        return 400

    def bytes(self) -> int:
        return 1 << 30


class Played:
    """The loop: notes the offsets that come, commits after each batch, and answers a failed fetch, or does not."""

    def __init__(self, kafka: Kafka, topic: str, *, seek: bool) -> None:
        self.delivered: list[int] = []
        self.failures = 0
        self._seek = seek
        self._topic = TopicPartition(topic, 0)
        self._events: queue.SimpleQueue[Event | str] = queue.SimpleQueue()
        # Little is fetched at once, so answers to commits stand between records in the client's queue.
        little = {"queued.min.messages": "500", "fetch.message.max.bytes": "50000"}
        config = Config(group=topic, bootstrap=kafka.bootstrap, kafka=little)
        self.intake = RaisingIntake(
            consumer_settings(config),
            [topic],
            post=self._events.put,
            room=Room(),
            fatal=self._events.put,
            probed=lambda alphabet: None,
        )

    def run(self) -> None:
        """Until the end of the log was reached and the last commit was answered."""
        self.intake.start()
        ended = answered = False
        while not (ended and answered):
            event = self._events.get(timeout=30)
            assert not isinstance(event, str), event
            if isinstance(event, Polled):
                self.delivered += [record.offset() for record in event.records]
                self.intake.commit([self._item()])
            elif isinstance(event, FetchFailed):
                self.failures += 1
                self.intake.seek_back([(self._topic, self._next)] if self._seek else [])
            elif isinstance(event, EndReached):
                ended = event.offset == COUNT
                self.intake.raising = not ended
                self.intake.commit([self._item()])
            elif isinstance(event, Committed):
                answered = ended
            else:
                assert isinstance(event, Assigned), event
        # After an exception inside consume() the client's close() never returns (confluent-kafka 2.16.1), so a worker's
        # bounded stop gives it up, and so does this.
        self.intake.close([], 1.0)

    @property
    def _next(self) -> int:
        return max(self.delivered, default=-1) + 1

    def _item(self) -> CommitItem:
        return CommitItem(self._topic, 1, self._next, "")


def test_fault_33_without_a_seek_back_an_exception_inside_consume_loses_records(kafka: Kafka, topic: MakeTopic) -> None:
    """The fault is real: this is what the gap detector is for."""
    name = topic()
    produce(kafka.bootstrap, name, [b"x" * 100] * COUNT)
    loop = Played(kafka, name, seek=False)
    loop.run()
    assert loop.intake.raised
    assert loop.failures
    print(f"{COUNT - len(set(loop.delivered))} of {COUNT} records lost by {loop.failures} exceptions")
    assert len(set(loop.delivered)) < COUNT


def test_fault_33_the_gap_detector_seeks_back_and_nothing_is_lost(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [b"x" * 100] * COUNT)
    loop = Played(kafka, name, seek=True)
    loop.run()
    assert loop.failures == loop.intake.seeks_back > 0
    assert loop.delivered == list(range(COUNT)), "in order, each once"
    assert committed(kafka.bootstrap, name, name)[0][0] == COUNT
