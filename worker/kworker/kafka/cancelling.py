"""Asks the owners of the delay log to cancel tasks, and hears what became of it.

Whoever waits for a due time and whoever cancels would race, so the owner of a partition decides: a request is written
beside the task, and answered in the transaction that ends the task's wait. A task is in the partition that its
publisher chose, so each partition is asked. Promises: `cancelled` means that the task does not run, `too-late` that it
was handed over; every call is bounded.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import Answer, answered, request
from kworker.kafka.reader import ALONE, partitions_of
from kworker.task import Headers

_CALL = 10.0
_CHUNK = 500
_SETTINGS = {**ALONE, "queued.max.messages.kbytes": "8192"}


def cancel(
    log: str, ids: Sequence[bytes], timeout: float, *, producer: Producer, settings: Mapping[str, Any]
) -> list[Answer | None]:
    """What became of each: the answer, or None when nobody gave one within so many seconds.

    Then the request stays, and is answered, and obeyed, by the next owner. producer: others may use it, too. settings:
    of a Consumer. Raises KafkaException.
    """
    deadline = time.monotonic() + timeout
    with Consumer({**settings, **_SETTINGS}) as consumer:
        partitions = partitions_of(consumer, log)
        if not partitions:
            return [Answer.UNKNOWN for _ in ids]  # nothing was ever delayed
        requests = _Requests(log, producer, partitions)
        for id in ids:
            requests.write(id)
        requests.listen(consumer, requests.written(deadline), deadline)
    return requests.verdicts()


class _Requests:
    """Requests that were written to each of these partitions, and their answers."""

    def __init__(self, log: str, producer: Producer, partitions: Sequence[int]) -> None:
        self._log = log
        self._producer = producer
        self._partitions = partitions
        self._token = uuid.uuid4().hex
        self._answers: dict[bytes, dict[int, Answer | None]] = {}  # by the request's key and the partition
        self._reports: list[tuple[KafkaError | None, int, int]] = []  # the client's threads append

    def write(self, id: bytes) -> None:
        """Ask to cancel this id."""
        record = request(id, f"{self._token}/{len(self._answers)}", self._log)
        self._answers[record.key or b""] = dict.fromkeys(self._partitions)
        for partition in self._partitions:
            while True:
                try:
                    self._producer.produce(
                        self._log,
                        record.value,
                        record.key,
                        partition,
                        on_delivery=self._report,
                        headers=list(record.headers),
                    )
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break

    def _report(self, error: KafkaError | None, message: Message) -> None:
        self._reports.append((error, message.partition() or 0, message.offset() or 0))

    def written(self, deadline: float) -> dict[int, int]:
        """Where the first request is in each partition, once all are acknowledged. Raises KafkaException."""
        while len(self._reports) < len(self._answers) * len(self._partitions):
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
            self._producer.poll(0.01)
        starts: dict[int, int] = {}
        for error, partition, offset in self._reports:
            if error is not None:
                raise KafkaException(error)
            starts[partition] = min(starts.get(partition, offset), offset)
        return starts

    def listen(self, consumer: Consumer, starts: Mapping[int, int], deadline: float) -> None:
        """Read the answers until there is a verdict on each, or it is too late."""
        consumer.assign([Position(self._log, partition, offset) for partition, offset in starts.items()])
        open_ = set(self._answers)
        while open_ and (wait := deadline - time.monotonic()) > 0:
            first = consumer.poll(min(0.1, wait))
            for message in [] if first is None else [first, *consumer.consume(_CHUNK, 0)]:
                key = message.key()
                if message.error() is None and message.value() is None and key in open_:
                    answers = self._answers[key]
                    answers[message.partition() or 0] = answered(dict(cast(Headers, message.headers() or [])))
                    if _verdict(answers) is not None:
                        open_.discard(key)

    def verdicts(self) -> list[Answer | None]:
        """One a request, in order."""
        return [_verdict(answers) for answers in self._answers.values()]


def _verdict(answers: Mapping[int, Answer | None]) -> Answer | None:
    """One partition has the task, or none."""
    found = set(answers.values())
    for verdict in (Answer.CANCELLED, Answer.TOO_LATE):
        if verdict in found:
            return verdict
    return None if None in found else Answer.UNKNOWN
