"""Fixtures of the tests of faults: workers, and what their tasks noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.tasks import PARTITIONS, Tasks
from faults.worker import PLUGIN, Calls, StartWorker
from kit import Kafka, MakeTopic
from kit.worker_process import WorkerProcess


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


@pytest.fixture
def tasks(kafka: Kafka, topic: MakeTopic, calls: Calls) -> Tasks:
    """The tasks of a new topic of PARTITIONS partitions in the shared Kafka."""
    return Tasks(kafka.bootstrap, topic(PARTITIONS), calls)
