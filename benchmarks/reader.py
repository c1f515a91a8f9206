"""The consumer of the hand-written peers: once a second it commits what was handed out so far, asynchronously."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from benchmarks.place import Place

COMMIT_EVERY = 1.0  # seconds, as kworker's --commit-interval


class Reader:
    """A member of the group, until `stopping`; it commits its position in `tick`, when all is done, and at the end."""

    def __init__(self, place: Place) -> None:
        self.consumer = Consumer(
            {
                **place.consumer,
                "auto.offset.reset": "earliest",
                "enable.auto.offset.store": True,
                "enable.partition.eof": False,
                "bootstrap.servers": place.bootstrap,
                "group.id": place.group,
            }
        )
        self.consumer.subscribe([place.topic])
        self.stopping = False
        self._due = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def batch(self, most: int, timeout: float) -> list[bytes]:
        """The values of up to `most` records; librdkafka waits for all of them, or `timeout` seconds."""
        return [value_of(message) for message in self.consumer.consume(most, timeout)]

    def one(self, timeout: float) -> bytes | None:
        """The value of the next record, or None."""
        message = self.consumer.poll(timeout)
        return None if message is None else value_of(message)

    def tick(self) -> None:
        """Commit if it is due; all that was handed out is done."""
        if (now := time.monotonic()) >= self._due:
            self._due = now + COMMIT_EVERY
            self._commit(asynchronous=True)

    def _commit(self, *, asynchronous: bool) -> None:
        try:
            self.consumer.commit(asynchronous=asynchronous)  # type: ignore[call-overload]  # its stub wants a literal
        except KafkaException as error:
            if error.args[0].code() != KafkaError._NO_OFFSET:  # nothing was consumed yet
                raise

    def close(self) -> None:
        """Commit the rest and leave the group."""
        self._commit(asynchronous=False)
        self.consumer.close()


def value_of(message: Message) -> bytes:
    """The value of a record. Raises KafkaException for what is none."""
    if (error := message.error()) is not None:
        raise KafkaException(error)
    value = message.value()
    assert value is not None, "every task of the benchmark has a value"
    return value


@contextmanager
def reading() -> Iterator[Reader]:
    """A Reader of the given place, closed in the end."""
    reader = Reader(Place.given())
    yield reader  # what is raised within must not be committed
    reader.close()
