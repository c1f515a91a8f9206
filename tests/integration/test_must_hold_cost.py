"""Must hold: memory stays flat, and a worker is quick to begin."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit import Kafka, NewRecord, produce
from kit.trial import Trial, Work
from kit.worker_process import WorkerProcess

TASKS = 300_000
WARM = 100_000
BATCH = 25_000
FLAT = 20 << 20

SLOW = 5.0
"""Seconds: the promises are 1.5 and 0.3; on a machine that is busy with other things this is what a test can claim."""


@pytest.mark.timeout(240)
def test_memory_stays_within_20_mib_over_300000_small_tasks(kafka: Kafka, tmp_path: Path) -> None:
    """There is always work waiting, from the first to the last."""
    records = [NewRecord(b'{"n": %d}' % n, None, (("task", b"ledger.small"),), n % 4) for n in range(BATCH)]
    with Trial(tmp_path, kafka.bootstrap, 4) as trial:
        worker = trial.start()
        warm, then = _Peak(worker), _Peak(worker)
        for published in range(BATCH, TASKS + 1, BATCH):
            produce(kafka.bootstrap, trial.topic, records)
            peak = warm if published <= WARM else then
            peak.watch(trial, published - BATCH)
        trial.wait(lambda: then.look() and not trial.lag(), "a lag of 0")
        text = f"{warm.most >> 20} MiB at {WARM} tasks, {then.most >> 20} MiB at most until {TASKS}"
        print(f"resident: {text}")
        assert then.most <= warm.most + FLAT, text
        assert f'kworker_tasks_succeeded_total{{task="ledger.small"}} {float(TASKS)}' in worker.metrics()


class _Peak:
    """The most memory that a worker was seen to have."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.most = 0
        self._worker = worker

    def look(self) -> bool:
        self.most = max(self.most, self._worker.resident())
        return True

    def watch(self, trial: Trial, least: int) -> None:
        """Look until more tasks than `least` are committed."""
        trial.wait(lambda: self.look() and trial.commits.last.held > least, f"{least} tasks committed")


def test_a_worker_runs_its_first_task_soon_after_its_launch(kafka: Kafka, tmp_path: Path) -> None:
    with Trial(tmp_path, kafka.bootstrap) as trial:
        trial.publish([Work("first")])
        began = time.monotonic_ns()
        trial.start()
        trial.wait(lambda: trial.ledger.runs, "its first task")
        seconds = (trial.ledger.runs[0].start - began) / 1e9
        print(f"launch to first task: {seconds:.2f} s")
        assert seconds < SLOW
        trial.finish()


def test_help_is_quick() -> None:
    began = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-m", "kworker", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    seconds = time.monotonic() - began
    print(f"launch to help: {seconds:.2f} s")
    assert "--group" in answer.stdout
    assert seconds < SLOW
