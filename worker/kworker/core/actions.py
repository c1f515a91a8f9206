"""What the engine asks for: a closed set of actions, performed by the worker's loop in the order given."""

from __future__ import annotations

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.partition import Partition
from kworker.task import TopicPartition


class Start(Struct, frozen=True, gc=False):
    """Hand these entries to the executor `executor`, in this order."""

    executor: str
    entries: list[Entry]


class Send(Struct, frozen=True):
    """Write these records, acknowledged by all replicas; each is answered in a Forwarded."""

    forwards: list[Forward]


class CreateTopics(Struct, frozen=True):
    """A forward found its topic missing: (source topic, missing topic). The forward is tried again by itself."""

    missing: list[tuple[str, str]]


class CommitItem(Struct, frozen=True):
    """One partition's offset to commit, with the finished offsets above it."""

    topic_partition: TopicPartition
    epoch: int
    offset: int
    metadata: str


class Commit(Struct, frozen=True):
    """Commit; answered by one Committed. urgent: work waits for the answer; if not, nobody waits."""

    items: list[CommitItem]
    urgent: bool = False


class Pause(Struct, frozen=True):
    """Fetch nothing more of these partitions."""

    partitions: list[TopicPartition]


class Resume(Struct, frozen=True):
    """Fetch these partitions again."""

    partitions: list[TopicPartition]


class SeekBack(Struct, frozen=True):
    """Fetch from these positions on: the offset after the last one that was delivered, of every partition."""

    positions: list[tuple[TopicPartition, int]]


class Withdraw(Struct, frozen=True):
    """Take back from every executor what has not begun of partitions that are leaving; answered by a Withdrawn."""


class Cancel(Struct, frozen=True):
    """Cancel what still runs of these partitions: their budget is over. What it does next is ignored."""

    partitions: list[Partition]


class Released(Struct, frozen=True):
    """These revoked partitions are drained, or their budget is over: commit this before giving them up."""

    partitions: list[TopicPartition]
    commit: list[CommitItem]


class Drained(Struct, frozen=True):
    """The stop is done: commit this and end.

    unfinished: attempts that still ran when the deadline passed, and partitions lost before their commit.
    """

    commit: list[CommitItem]
    unfinished: int


class Suspected(Struct, frozen=True):
    """Say that this partition's owners died: its unfinished records below `end` run alone. times: how many owners did.

    charged: the record that ran alone when the last one died, if there was one; deaths: how often that was.
    """

    topic_partition: TopicPartition
    start: int
    end: int
    times: int
    charged: int | None
    deaths: int


class Cleared(Struct, frozen=True):
    """Say that what was suspected of this partition is done."""

    topic_partition: TopicPartition


Action = (
    Start
    | Send
    | CreateTopics
    | Commit
    | Pause
    | Resume
    | SeekBack
    | Withdraw
    | Cancel
    | Released
    | Drained
    | Suspected
    | Cleared
)
