"""What the tests of faults share: a worker with the misbehaving plugin, and what that plugin noted."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kit import wait_for
from shim_worker import WorkerProcess

PLUGIN = Path(__file__).parent / "plugin"


class Calls:
    """What the tasks of faults_plugin noted: (task, attempt, detail) each, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[str, int, Any]]:
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        fields = [line.split("\t") for line in lines]
        return [(task, int(attempt), ast.literal_eval(detail)) for task, attempt, detail in fields]

    def counted(self, task: str) -> Counter[Any]:
        """How often `task` noted which detail."""
        return Counter(detail for name, _, detail in self.read() if name == task)


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Shared by all workers of a test."""
    return Calls(tmp_path / "calls")


@pytest.fixture
def start_worker(tmp_path: Path, calls: Calls) -> Iterator[StartWorker]:
    """Starts workers of the group and topic of one name; those that still run at the end are killed."""
    with ExitStack() as stack:
        number = 0

        def start(bootstrap: str, name: str, *arguments: str) -> WorkerProcess:
            nonlocal number
            number += 1
            given = ["--group", name, "--topic", name, "--bootstrap", bootstrap, "--plugin", "faults", *arguments]
            env = {"FAULTS_CALLS": str(calls.path)}
            worker = WorkerProcess(tmp_path / f"worker-{number}", *given, env=env, site=[PLUGIN])
            stack.callback(worker.close)
            return worker

        yield start


def committed_of(worker: WorkerProcess) -> int:
    """The sum of what the worker knows to be committed; AssertionError when it has ended."""
    assert worker.exit_code is None, worker.log.read_text(errors="replace")[-3000:]
    return sum(partition["committed"] or 0 for partition in worker.status()["assignment"])


def wait_committed(worker: WorkerProcess, offset: int, timeout: float = 30.0) -> None:
    """Wait until that much is committed over all partitions."""
    wait_for(lambda: committed_of(worker) == offset, timeout, f"{offset} records are committed")


def samples(page: str, name: str) -> dict[str, float]:
    """The series of one metric: labels as text -> value."""
    import re

    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, re.M)
    return {labels: float(number) for labels, number in found}
