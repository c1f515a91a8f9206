"""Must hold, in full: 1,000,000 small tasks, and a backlog of 1 GiB, in memory that stays flat within 20 MiB.

The short form of the first is in test_must_hold_cost.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from kit import Kafka, NewRecord, produce
from kit.stage import metric
from kit.trial import Trial
from kit.worker_process import WorkerProcess

FLAT = 20 << 20
PARTITIONS = 4
SMALL = 1_000_000
BATCH = 50_000
LARGE = 100_000
"""Bytes of a large record."""

BACKLOG = 1 << 30


class Resident:
    """The most memory that a worker was seen to have while it warmed up, and since."""

    def __init__(self, worker: WorkerProcess, warm: int) -> None:
        self.warming = self.flat = 0
        self._worker = worker
        self._warm = warm

    def look(self, over: int) -> bool:
        """Take a sample when so many tasks are over; true."""
        now = self._worker.resident()
        if over < self._warm:
            self.warming = max(self.warming, now)
        else:
            self.flat = max(self.flat, now)
        return True

    def check(self, what: str) -> None:
        """Flat since the warm-up, which must have been seen."""
        text = f"{what}: {self.warming / 2**20:.1f} MiB while it warmed up, {self.flat / 2**20:.1f} MiB at most since"
        print(text)
        assert self.warming, text
        assert self.flat <= self.warming + FLAT, text


def wait_over(trial: Trial, resident: Resident, count: int) -> None:
    """Look at the memory until so many tasks are committed as finished."""

    def is_over() -> bool:
        held = trial.commits.last.held
        return resident.look(held) and held >= count

    trial.wait(is_over, f"{count} tasks committed", 600)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_memory_stays_within_20_mib_over_a_million_small_tasks(kafka: Kafka, tmp_path: Path) -> None:
    """There is always work waiting, from the first to the last."""
    records = [NewRecord(b'{"n": %d}' % n, None, (("task", b"ledger.small"),), n % PARTITIONS) for n in range(BATCH)]
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        worker = trial.start()
        resident = Resident(worker, SMALL // 5)
        for published in range(BATCH, SMALL + 1, BATCH):
            produce(kafka.bootstrap, trial.topic, records)
            wait_over(trial, resident, published - BATCH)
        wait_over(trial, resident, SMALL)
        resident.check(f"{SMALL} small tasks")
        trial.wait(lambda: metric(worker, "kworker_tasks_succeeded_total") == SMALL, "all to have succeeded once")
        worker.terminate()
        assert worker.wait() == 0
        assert not trial.lag()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_memory_stays_within_20_mib_over_a_backlog_of_1_gib(kafka: Kafka, tmp_path: Path) -> None:
    """It lies there before the worker begins, in records that cannot be compressed."""
    count = BACKLOG // LARGE + 1
    headers = (("task", b"ledger.large"), ("content-type", b"application/octet-stream"))
    records = [NewRecord(os.urandom(LARGE), None, headers, n % PARTITIONS) for n in range(500)]
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        try:
            for first in range(0, count, len(records)):
                produce(kafka.bootstrap, trial.topic, records[: count - first])
            worker = trial.start()
            resident = Resident(worker, count // 4)
            wait_over(trial, resident, count)
            resident.check(f"{count} records of {LARGE} bytes")
            trial.wait(lambda: metric(worker, "kworker_tasks_succeeded_total") == count, "all to have succeeded once")
            worker.terminate()
            assert worker.wait() == 0
            assert not trial.lag()
        finally:
            client = AdminClient({"bootstrap.servers": kafka.bootstrap})  # no answer comes when it is gone
            client.delete_topics([trial.topic])[trial.topic].result(30)
