"""One partition of the delay log with its owner, its log in memory and clocks that a test moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from kit.memory import MemoryRecord
from kworker.core.delayed import Answer, answered, delay
from kworker.kafka.delaylog import LogPlace
from kworker.kafka.transaction import Ousted, Placed, Refused, Transactions
from kworker.metrics import Metrics
from kworker.task import Publication
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.holding import Holding
from kworker.timekeeper.reading import Clocks
from kworker.timekeeper.tally import Tally

LOG = "kworker.delayed"
START = Clocks(wall=1_800_000_000_000, steady=50_000)
HOUR = 3_600_000


class MemoryWriter:
    """Transactions that go to the stage. away: topics that are missing; refuses: what the broker takes no record of."""

    def __init__(self, stage: HoldingStage) -> None:
        self._stage = stage

    def start(self) -> None:
        self._stage.started += 1

    def missing(self, topic: str) -> str:
        return f"{topic}: there is none" if topic in self._stage.away else ""

    def write(self, records: Sequence[Placed]) -> list[int]:
        stage = self._stage
        if stage.ousted:
            raise Ousted("fenced")
        if why := {n: "too large" for n, (record, _) in enumerate(records) if record.value == b"huge"}:
            stage.refusals += 1
            raise Refused(why)
        stage.batches.append([record for record, _ in records])
        offsets = []
        for record, _ in records:
            if record.topic == LOG:
                offsets.append(stage.append(record))
            else:
                offsets.append(0)
        return offsets

    def close(self) -> None:
        self._stage.closed += 1


class HoldingStage:
    """One partition, its log in memory, and clocks that the test moves."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.wall, self.steady = START
        self.log: list[MemoryRecord] = []
        self.batches: list[list[Publication]] = []
        self.away: set[str] = set()
        self.ousted = False
        self.started = self.closed = self.refusals = 0
        self.low = 0
        self.identity = "id-1"
        self.metrics = Metrics([], [])
        self.holding = Holding(
            LOG,
            3,
            Cache(self._folder),
            clocks=lambda: self.clocks,
            writer=lambda: cast(Transactions, MemoryWriter(self)),
            place=lambda: LogPlace(self.low, len(self.log), self.identity),
            letters=lambda writer: writer.missing(f"{LOG}.dlq"),
            tally=Tally(self.metrics),
        )
        self._read = 0

    def append(self, record: Publication) -> int:
        offset = len(self.log)
        self.log.append(MemoryRecord(offset, record.headers, record.key, record.value, 3, LOG, (1, self.wall)))
        return offset

    def wait(self, id: str, seconds: float, target: str = "orders", value: bytes | None = b"{}") -> int:
        """A task that is due in so many seconds."""
        task = Publication(target, b"k", value, [("task", id.encode())])
        return self.append(delay(task, id, self.wall / 1000 + seconds, LOG))

    @property
    def clocks(self) -> Clocks:
        """What both show."""
        return Clocks(self.wall, self.steady)

    def rebuild(self) -> None:
        """Another owner takes over, and reads the log from its start."""
        self.holding.close()
        self.holding.cache.close()
        self.holding.cache = Cache(self._folder)
        self._read = 0

    def read_some(self, count: int) -> None:
        """Read so many records more."""
        self.holding.take(self.log[self._read : self._read + count])
        self._read = min(self._read + count, len(self.log))

    def read(self) -> None:
        """Read the log up to its end."""
        self.holding.take(self.log[self._read :])
        self._read = len(self.log)
        self.holding.reached(self._read)

    def run(self) -> None:
        """Do all that can be done now."""
        self.read()
        while self.holding.advance():
            self.read()

    def pass_by(self, seconds: float) -> None:
        """Time, by both clocks."""
        self.wall += int(seconds * 1000)
        self.steady += int(seconds * 1000)

    @property
    def handed(self) -> list[str]:
        """The tasks that were handed over, in order."""
        return [
            (dict(record.headers)["task"] or b"").decode()
            for batch in self.batches
            for record in batch
            if not record.topic.startswith(LOG)
        ]

    @property
    def letters(self) -> list[Publication]:
        """What was set aside."""
        return [record for batch in self.batches for record in batch if record.topic == f"{LOG}.dlq"]

    def answers(self) -> dict[bytes, Answer | None]:
        """By the key of the request."""
        return {
            record.key or b"": answered(dict(record.headers))
            for batch in self.batches
            for record in batch
            if (record.key or b"").startswith(b"cancel/")
        }
