"""What became of every message, by its effects alone: the receiver's log, the file of counts, the dead-letter topic.

No worker is asked: one that was killed could not answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from plan import TOPIC, Piece
from receiver import Receiver

from kworker.task import Headers

DEAD_LETTERS = TOPIC + ".dlq"


class Ledger:
    """Reads the effects as they come. Everything is told by the id of its message."""

    def __init__(
        self, pieces: Mapping[str, Piece], receiver: Receiver, counts: Path, bootstrap: str, group: str, partitions: int
    ) -> None:
        self._pieces = pieces
        self._receiver = receiver
        self._counts = counts.open("rb")
        self._rest = b""
        settings = {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 2}
        self._consumer = Consumer(settings)  # of the group, to ask for its offsets; it never joins
        self._places = [TopicPartition(TOPIC, partition) for partition in range(partitions)]
        self._consumer.assign([TopicPartition(DEAD_LETTERS, p, OFFSET_BEGINNING) for p in range(partitions)])
        self.counted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.dead: dict[str, list[dict[str, str]]] = defaultdict(list)
        """The headers of the dead letters of each message."""

    def close(self) -> None:
        """Let go of the file and the broker."""
        self._counts.close()
        self._consumer.close()

    def look(self) -> None:
        """Take in what has happened since."""
        *lines, self._rest = (self._rest + self._counts.read()).split(b"\n")
        for line in lines:
            name, count, size = line.decode().rsplit(maxsplit=2)
            self.counted[name].append((int(count), int(size)))
        for message in self._consumer.consume(1000, 0):
            if message.error() is None:
                given = cast("Headers", message.headers() or [])
                headers = {name: (value or b"").decode("utf-8", "replace") for name, value in given}
                headers["place"] = f"{message.topic()}/{message.partition()}/{message.offset()}"
                self.dead[headers.get("ce_id", "")].append(headers)

    def runs(self) -> Counter[str]:
        """How often each message took effect."""
        done = {name: answers.count(200) for name, answers in self._receiver.answers.copy().items()}
        return Counter(done) + Counter({name: len(found) for name, found in self.counted.items()})

    @property
    def accounted(self) -> int:
        """Messages that succeeded or are dead letters."""
        return len(self.runs().keys() | self.dead.keys())

    def lag(self) -> int:
        """Records that the group has not committed as done."""
        ends = [self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places]
        committed = self._consumer.committed(self._places, timeout=10)
        return sum(end - max(0, found.offset) for end, found in zip(ends, committed, strict=True))

    def retried(self) -> int:
        """Messages whose first attempt was answered 500 or 503."""
        return sum(answers[0] >= 500 for answers in self._receiver.answers.copy().values() if answers)

    def run_twice(self) -> int:
        """Messages that took effect, or became a dead letter, more than once."""
        return sum(count > 1 for count in [*self.runs().values(), *map(len, self.dead.values())])

    def reasons(self) -> Counter[str]:
        """Dead-lettered messages by reason."""
        return Counter(letters[0]["kworker-reason"] for letters in self.dead.values())

    def faults(self) -> list[str]:
        """What contradicts the plan; empty when every message had its due."""
        runs = self.runs()
        found = [f"{name}: lost" for name in self.lost()]
        for name, piece in self._pieces.items():
            reasons = {letter["kworker-reason"] for letter in self.dead.get(name, ())}
            if reasons != ({piece.fate} if piece.fate else set()):
                found.append(f"{name}: dead letters {sorted(reasons)}, expected {piece.fate or 'none'}")
            if piece.fate and runs[name]:
                found.append(f"{name}: took effect, though it must not")
            if piece.page and any(count != piece.page for count in self.counted[name]):
                found.append(f"{name}: counted {self.counted[name]}, expected {piece.page}")
        if self._receiver.forged:
            found.append(f"{self._receiver.forged} signatures were wrong")
        strangers = (runs.keys() | self.dead.keys()) - self._pieces.keys()
        return found + [f"{name}: was never published" for name in sorted(strangers)]

    def lost(self) -> list[str]:
        """Messages that neither took effect nor became a dead letter."""
        return sorted(self._pieces.keys() - self.runs().keys() - self.dead.keys())
