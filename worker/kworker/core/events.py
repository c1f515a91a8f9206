"""What happens to the engine: a closed set of events. `at` is wall time, in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.task import Outcome, Record, TopicPartition


class Assignment(Struct, frozen=True):
    """One newly assigned partition: where it starts, and the metadata stored beside the committed offset.

    committed: None when the group has no committed offset for it; `start` is then the resolved reset position.
    end: of the log, where the metadata's mark asks for it. marked: whether the mark that this life begins with
    (`Mark.begun`) is committed.
    """

    topic_partition: TopicPartition
    start: int
    committed: int | None
    metadata: str = ""
    end: int | None = None
    marked: bool = True


class Assigned(Struct, frozen=True):
    """The group gave us partitions; records of them come after this event."""

    partitions: list[Assignment]


class Polled(Struct, frozen=True, gc=False):
    """Records were fetched, in log order within each partition. size: bytes of all of them."""

    records: list[Record]
    at: float
    size: int = 0

    def runs(self) -> Iterator[tuple[TopicPartition, list[Record]]]:
        """The records split where their partition changes."""
        records = self.records
        start, most = 0, len(records)
        while start < most:
            topic, partition = records[start].topic(), records[start].partition()
            end = start + 1
            while end < most and records[end].partition() == partition and records[end].topic() == topic:
                end += 1
            yield TopicPartition(topic, partition), records[start:end] if end - start < most else records
            start = end


class FetchFailed(Struct, frozen=True):
    """Something raised while records were fetched, and some may have gone with it; answered by a SeekBack.

    confluent_kafka's consume() drops what it has fetched when a callback or a signal raises inside it: measured,
    500 of 2,000 records gone.
    """


class EndReached(Struct, frozen=True):
    """The partition has nothing below `offset` that was not delivered."""

    topic_partition: TopicPartition
    offset: int


class Finished(Struct, frozen=True, gc=False):
    """Attempts ended: (entry, run number it was started with, outcome, start, end by the monotonic clock) each."""

    reports: list[tuple[Entry, int, Outcome, float, float]]
    at: float


class Refusal(Enum):
    """Why the broker did not take a forward."""

    TOO_LARGE = auto()
    NO_TOPIC = auto()
    OTHER = auto()


class Forwarded(Struct, frozen=True):
    """The broker answered forwards: acknowledged where the refusal is None."""

    results: list[tuple[Forward, Refusal | None]]


class Committed(Struct, frozen=True):
    """The group coordinator answered a Commit: (partition, epoch, error text or None) each."""

    results: list[tuple[TopicPartition, int, str | None]]


class Revoked(Struct, frozen=True):
    """The group takes partitions away. Drained until `deadline` (engine time), then Released is answered.

    lost: they are another worker's already: nothing can be committed.
    """

    partitions: list[TopicPartition]
    deadline: float
    lost: bool = False


class Withdrawn(Struct, frozen=True):
    """The answer to Withdraw: entries that had been handed to an executor and have not begun."""

    entries: list[Entry]


class Tick(Struct, frozen=True):
    """Time passed."""


class LogReady(Struct, frozen=True):
    """The delay log is there, and where its retries come back: long retries may wait in it."""

    at: float


class Quiet(Struct, frozen=True):
    """Take no more records; run what is there."""


class StopRequested(Struct, frozen=True):
    """Take no more, start no more, finish what runs until `deadline` (engine time); Drained is answered."""

    deadline: float


Event = (
    Assigned
    | Polled
    | EndReached
    | FetchFailed
    | Finished
    | Forwarded
    | Committed
    | Revoked
    | Withdrawn
    | Tick
    | LogReady
    | Quiet
    | StopRequested
)
