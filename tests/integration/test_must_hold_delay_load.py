"""Must hold: a partition of the delay log with 1,000,000 entries is taken over in 8 s, in 150 MiB, and the work of its
new owner goes on meanwhile at nine tenths of its pace at least.

Processor time is asserted as it is; of the wall clock, and of the pace, a busy machine may ask for patience:
KWORKER_TEST_PATIENCE multiplies the first, and divides the loss that the second may have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from kit import Kafka, NewRecord, produce
from kit.delays import Delays, held_by
from kit.stage import metric
from kit.trial import Trial
from kit.vitals import family
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess

ENTRIES = 1_000_000
TASKS = 1_500_000
SECONDS = 8.0
MEMORY = 150 << 20
PACE = 0.9
SPAN = 4.0
"""Seconds for which the pace is measured before, and after."""

PATIENCE = float(os.environ.get("KWORKER_TEST_PATIENCE", "2"))


def loads(worker: WorkerProcess) -> bool:
    """Whether a process of it loads a partition."""
    for process in family(worker):
        try:
            if any("timekeeper.loader" in word for word in process.cmdline()):
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def proportional(worker: WorkerProcess) -> int:
    """Bytes of memory that it and all below it have, what they share counted once."""
    total = 0
    for process in [psutil.Process(worker.pid), *family(worker)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def processor(worker: WorkerProcess) -> float:
    """Seconds of processor time that it and its ended children have had."""
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def pace(worker: WorkerProcess, lasts: Callable[[], bool]) -> float:
    """Tasks a second, while that lasts."""
    began, first = time.monotonic(), metric(worker, "kworker_tasks_succeeded_total")
    while lasts():
        time.sleep(0.1)
    return (metric(worker, "kworker_tasks_succeeded_total") - first) / (time.monotonic() - began)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_entries_are_taken_over_in_time_in_little_memory_and_beside_other_work(
    kafka: Kafka, tmp_path: Path
) -> None:
    with Delays(tmp_path / "delays", kafka.bootstrap, 1) as delays, Trial(tmp_path, kafka.bootstrap, 4) as trial:
        try:
            due = time.time() + 36_000
            delays.publish((f"order-{n:07d}-reminder", due + n * 7919 % ENTRIES / 100) for n in range(ENTRIES))
            owner = check_cold_start(delays)
            check_beside_work(kafka, delays, trial, owner)
        finally:
            client = AdminClient({"bootstrap.servers": kafka.bootstrap})  # no answer comes when it is gone
            client.delete_topics([delays.log])[delays.log].result(30)


def check_cold_start(delays: Delays) -> WorkerProcess:
    """The first owner; returns it."""
    owner = delays.worker()
    owner.wait_ready()
    began = wait_for(lambda: loads(owner) and time.monotonic(), 40, "a process that loads the log")
    before, spent = proportional(owner), processor(owner)
    seen = [before]
    while loads(owner):
        seen.append(proportional(owner))
        time.sleep(0.05)
    wait_for(lambda: held_by(owner) == 1, 10, "the partition is held")
    seconds, used = time.monotonic() - began, processor(owner) - spent
    took, idle = metric(owner, "kworker_delay_takeover_seconds"), proportional(owner)
    text = (
        f"{ENTRIES} entries: taken over in {took:.1f} s, {used:.1f} s of processor time;"
        f" {before / 2**20:.0f} MiB before, {max(seen) / 2**20:.0f} MiB at most, {idle / 2**20:.0f} MiB since"
    )
    print(text)
    assert metric(owner, "kworker_delayed_tasks") == ENTRIES
    assert used <= SECONDS, text
    assert max(took, seconds) <= SECONDS * PATIENCE, text
    assert max(seen) <= MEMORY + before, text
    assert idle <= before + (MEMORY >> 2), text
    return owner


def check_beside_work(kafka: Kafka, delays: Delays, trial: Trial, owner: WorkerProcess) -> None:
    """The owner is killed, and a busy worker takes over."""
    records = [NewRecord(b'{"n": %d}' % n, None, (("task", b"ledger.busy"),), n % 4) for n in range(50_000)]
    for _ in range(TASKS // len(records)):
        produce(kafka.bootstrap, trial.topic, records)
    busy = trial.start("--namespace", delays.namespace)
    trial.wait(lambda: metric(busy, "kworker_tasks_succeeded_total") > TASKS / 50, "work under way")
    end = time.monotonic() + SPAN
    before = pace(busy, lambda: time.monotonic() < end)
    owner.kill9()
    wait_for(lambda: loads(busy), 40, "a process that loads the log")
    beside = pace(busy, lambda: loads(busy))
    end = time.monotonic() + SPAN
    after = pace(busy, lambda: time.monotonic() < end)
    wait_for(lambda: held_by(busy) == 1, 20, "the partition is held")
    took, left = metric(busy, "kworker_delay_takeover_seconds"), TASKS - metric(busy, "kworker_tasks_succeeded_total")
    text = f"{before:.0f} tasks/s before, {beside:.0f} beside a take-over of {took:.1f} s, {after:.0f} after"
    print(text)
    assert left > 0, f"there was not always work: {text}"
    assert metric(busy, "kworker_delayed_tasks") == ENTRIES
    assert beside >= (before + after) / 2 * (1 - (1 - PACE) * PATIENCE), text
