"""Workers with the misbehaving plugin, what that plugin noted, and what they tell of themselves."""

from __future__ import annotations

import ast
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import wait_for
from kit.worker_process import WorkerProcess

PLUGIN = Path(__file__).parent / "plugin"

StartWorker = Callable[..., WorkerProcess]
"""Fixture start_worker: (address, name of group and topic, further arguments)."""


class Calls:
    """What the tasks of faults_plugin noted: (task, attempt, detail) each, in order. Any thread may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._read: list[tuple[str, int, Any]] = []
        self._lock = threading.Lock()

    def read(self) -> list[tuple[str, int, Any]]:
        """All that was noted so far."""
        with self._lock:
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(self._at)
                    whole, newline, _ = file.read().rpartition(b"\n")  # behind it is what is being written now
                self._at += len(whole + newline)
                fields = [line.split("\t") for line in whole.decode().split("\n") if line]
                self._read += [(task, int(attempt), ast.literal_eval(detail)) for task, attempt, detail in fields]
            return list(self._read)

    def counted(self, task: str) -> Counter[Any]:
        """How often `task` noted which detail."""
        return Counter(detail for name, _, detail in self.read() if name == task)


def committed_of(worker: WorkerProcess) -> int:
    """The sum of what the worker knows to be committed; AssertionError when it has ended."""
    assert worker.exit_code is None, worker.logged()[-3000:]
    return sum(partition["committed"] or 0 for partition in worker.status()["assignment"])


def wait_committed(worker: WorkerProcess, offset: int, timeout: float = 30.0) -> None:
    """Wait until that much is committed over all partitions."""
    wait_for(lambda: committed_of(worker) == offset, timeout, f"{offset} records are committed")


def samples(page: str, name: str) -> dict[str, float]:
    """The series of one metric: labels as text -> value."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, re.M)
    return {labels: float(number) for labels, number in found}
