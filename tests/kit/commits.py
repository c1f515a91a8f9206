"""What a group commits, watched from outside while it works: offsets, and the finished ones above them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from kit.records import TIMEOUT
from kit.waiting import wait_for
from kworker.core.metadata import Intervals, decode

EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """What was committed at some moment between `before` and `after` (time.monotonic_ns)."""

    before: int
    after: int
    committed: dict[int, tuple[int, Intervals]]
    """Partition -> (committed offset, what is finished above it); without a commit it is absent."""

    def holds(self, partition: int, offset: int) -> bool:
        """Whether this offset is finished, for all who read the commit."""
        committed, above = self.committed.get(partition, (0, Intervals()))
        return offset < committed or offset in above

    @property
    def held(self) -> int:
        """How many offsets are finished."""
        lengths = (sum(above.bounds[1::2]) - sum(above.bounds[::2]) for _, above in self.committed.values())
        return sum(offset for offset, _ in self.committed.values()) + sum(lengths)


class CommitWatch:
    """Takes a sample every 0.1 s, without joining the group, from `start` to `close`.

    While the broker does not answer there are none. A commit whose metadata kworker cannot have written is a failure.
    """

    def __init__(self, bootstrap: str, group: str, topic: str, partitions: int) -> None:
        self.samples: list[Sample] = []
        self._asked = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": group, "reconnect.backoff.max.ms": 200, "log_level": 0}
        )
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="commit-watch", daemon=True)

    def __enter__(self) -> Self:
        wait_for(self._try, TIMEOUT, "an answer of the group's coordinator, which may have to be made first")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT)
        self._consumer.close()

    @property
    def last(self) -> Sample:
        """The last one taken."""
        return self.samples[-1]

    @property
    def unchanged(self) -> float:
        """For how many seconds every sample has been the same."""
        last = self.samples[-1]
        since = next((sample for sample in reversed(self.samples) if sample.committed != last.committed), last)
        return (last.after - since.after) / 1e9

    def now(self, timeout: float = TIMEOUT) -> Sample:
        """Take one more. Raises KafkaException when the broker does not answer."""
        if self._fault is not None:
            raise AssertionError("the watch of the commits has ended") from self._fault
        with self._lock:
            before = time.monotonic_ns()
            found = self._consumer.committed(self._asked, timeout=timeout)
            committed = {}
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
                if place.offset >= 0:
                    above = decode(place.metadata, place.offset)
                    assert above is not None, f"foreign metadata: {place} {place.metadata!r}"
                    committed[place.partition] = place.offset, above
            self.samples.append(Sample(before, time.monotonic_ns(), committed))
            return self.samples[-1]

    def _try(self) -> bool:
        try:
            self.now(1.0)
        except KafkaException:
            return False
        return True

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self._try()  # or not: the broker may be down or frozen, which is the test's own doing
            except BaseException as fault:
                self._fault = fault
                return
