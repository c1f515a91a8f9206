"""Back-pressure: how much more may be fetched, and whose intake is paused.

Promises: unfinished records in memory are bounded by count and by bytes; partitions that are stuck leave room to the
others, however many they are, since each may take half of what those before it have left; and what is finished above a
stuck record always fits its commit metadata.
"""

from __future__ import annotations

from kworker.core.actions import Action, Pause, Resume
from kworker.core.metadata import Alphabet, capacity
from kworker.core.partition import Partition
from kworker.task import TopicPartition

_WINDOW_SHARE = 0.75  # of what fits the commit metadata; the rest is for records fetched before a pause takes effect
_LEAST_SHARE = 0.5  # of what paused partitions leave: pausing one throws away what was prefetched of it, so late
_RECORD_BYTES = 600  # what an unfinished record costs beside its key, value and headers


class Pressure:
    """Owns the count of what is unfinished over all partitions, and the set of paused partitions."""

    __slots__ = (
        "_crowded",
        "_most_bytes",
        "_most_records",
        "_shrunk",
        "_window",
        "paused",
        "unfinished",
        "unfinished_bytes",
    )

    def __init__(self, most_records: int, most_bytes: int, alphabet: Alphabet | None) -> None:
        self._most_records = most_records
        self._most_bytes = most_bytes
        self.set_alphabet(alphabet)
        self._crowded: set[Partition] = set()
        self._shrunk: dict[Partition, None] = {}  # crowded ones of which something was removed, in that order
        self.unfinished = 0
        self.unfinished_bytes = 0
        self.paused: set[TopicPartition] = set()

    def set_alphabet(self, alphabet: Alphabet | None) -> None:
        """Fit the window to how metadata is written; it stays bounded where none is."""
        self._window = _WINDOW_SHARE * capacity(alphabet or Alphabet.WIDE)

    def add(self, partition: Partition, records: int, size: int) -> None:
        """Records became open, of `size` bytes in all."""
        size += records * _RECORD_BYTES
        partition.bytes += size
        self.unfinished_bytes += size
        self.unfinished += records

    def remove(self, partition: Partition, records: int, size: int) -> None:
        """Records are finished, of `size` bytes in all."""
        size += records * _RECORD_BYTES
        partition.bytes -= size
        self.unfinished_bytes -= size
        self.unfinished -= records
        if partition.crowded:
            self._shrunk[partition] = None

    def forget(self, partition: Partition) -> None:
        """The partition is fenced: what is unfinished of it is another worker's."""
        self.unfinished -= partition.tracker.open_count
        self.unfinished_bytes -= partition.bytes
        self._crowded.discard(partition)

    @property
    def room(self) -> int:
        """How many more records may be fetched now."""
        if self.unfinished_bytes >= self._most_bytes:
            return 0
        return max(0, self._most_records - self.unfinished)

    @property
    def room_bytes(self) -> int:
        """How many more bytes may be fetched now."""
        return max(0, self._most_bytes - self.unfinished_bytes)

    def grown(self, partition: Partition, assigned: int, actions: list[Action]) -> None:
        """Records were added; `assigned` is how many partitions share the room."""
        if not partition.crowded and self._fullness(partition, assigned) > 1.0:
            partition.crowded = True
            self._crowded.add(partition)
            self.settle(partition, actions)

    def shrunk(self, assigned: int, actions: list[Action]) -> None:
        """See to the crowded partitions of which records were removed since the last call.

        Two watermarks: pausing throws prefetched records away.
        """
        for partition in self._shrunk:
            if self._fullness(partition, assigned) < 0.5:
                partition.crowded = False
                self._crowded.discard(partition)
                self.settle(partition, actions)
        self._shrunk.clear()

    def settle(self, partition: Partition, actions: list[Action]) -> None:
        """Pause or resume the partition's intake if that is what its state asks for."""
        name = partition.topic_partition
        wanted = partition.crowded or bool(partition.failing)
        if partition.fenced or wanted is (name in self.paused):
            return
        if wanted:
            self.paused.add(name)
            actions.append(Pause([name]))
        else:
            self.paused.discard(name)
            actions.append(Resume([name]))

    def _fullness(self, partition: Partition, assigned: int) -> float:
        """Above 1 the intake pauses, below a half it goes on."""
        tracker = partition.tracker
        others = [other for other in self._crowded if other is not partition]
        share = max(_LEAST_SHARE, 1 / max(assigned - len(others), 1))
        records = self._most_records - sum(other.tracker.open_count for other in others)
        size = self._most_bytes - sum(other.bytes for other in others)
        return max(
            tracker.open_count / max(1.0, records * share),
            partition.bytes / max(1.0, size * share),
            tracker.window / self._window,
        )
