"""Dead letters as a worker writes them, without the worker: what tests of `kworker dlq` begin with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kit.leash import leashed
from kit.records import NewRecord
from kworker.core.deadletter import FULL, dead_letter
from kworker.core.entry import Entry
from kworker.core.metadata import Intervals
from kworker.core.partition import Partition
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.task import ErrorInfo, Headers, Reason, Task, TopicPartition

SEEN = 1_764_000_000.0
STORED = 1_764_000_999_000  # ms since the epoch
ERROR = ErrorInfo("ValueError", "item 7 is wrong", "Traceback (most recent call last):\n  line 12\nValueError: item 7")
_ROUTE = Route("t", "thread", RetryPolicy())


class Original(NamedTuple):
    """A record that was set aside."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = b"k"
    value: bytes | None = b'{"a": 1}'
    headers: Sequence[tuple[str, bytes | None]] = (("ce_type", b"t.one"),)

    def letter(
        self,
        reason: Reason = Reason.EXHAUSTED,
        error: ErrorInfo = ERROR,
        *,
        at: float = SEEN,
        level: int = FULL,
        partition: int | None = None,
    ) -> NewRecord:
        """Its dead letter, in the same partition unless said. at: when it was set aside, in seconds."""
        headers: Headers = list(self.headers)
        task = Task("t", self.topic, self.partition, self.offset, self.key, self.value, headers, 0)
        place = Partition(TopicPartition(self.topic, self.partition), 1, 0, Intervals(), None, self.topic + ".dlq")
        entry = Entry(task, place, _ROUTE, SEEN, run=2, attempt=2)
        made = dead_letter(entry, reason, error, at=at, group="g", worker="w", level=level)
        where = self.partition if partition is None else partition
        return NewRecord(made.value, made.key, tuple(made.headers), where)


class Stored:
    """A record as it would be read back."""

    def __init__(self, made: NewRecord, topic: str = "tasks.dlq", offset: int = 7) -> None:
        self._made = made
        self._place = topic, made.partition, offset

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]

    def key(self) -> bytes | None:
        return self._made.key

    def value(self) -> bytes | None:
        return self._made.value

    def headers(self) -> Headers | None:
        return list(self._made.headers) or None

    def timestamp(self) -> tuple[int, int]:
        return 1, STORED


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def command(bootstrap: str, *arguments: str) -> list[str]:
    """`kworker dlq`, such that it cannot outlive the thread that starts it."""
    return leashed(sys.executable, "-m", "kworker", "dlq", *arguments, "--bootstrap", bootstrap)


def dlq(
    bootstrap: str, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60
) -> Said:
    """Run `kworker dlq` in a folder, to its end."""
    done = subprocess.run(
        command(bootstrap, *arguments),
        cwd=folder,
        env=os.environ | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(errors="backslashreplace"), done.stderr.decode())
