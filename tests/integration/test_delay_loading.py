"""A long partition of the delay log is read by a process of its own; and what becomes of it when that, or the worker,
dies."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kit import Kafka
from kit.delays import Delays, held_by
from kit.stage import metric
from kit.vitals import family, gone
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess
from kworker.kafka.reader import ALONE
from kworker.timekeeper import loading as module
from kworker.timekeeper.loader import Order
from kworker.timekeeper.loading import Loading

ENTRIES = 40_000
"""Enough that loading them takes a moment, in which it can be interrupted."""

CANCELLED = 100

WATCHED = """
import os, sys
sys.path[:] = sys.argv[1:]
from kworker.timekeeper import loader
settle = loader.Cache.settle
def watched(cache):
    if os.sched_getscheduler(0) == os.SCHED_IDLE:
        raise OSError("settled in idle time")
    settle(cache)
loader.Cache.settle = watched
loader.main()
"""
"""The process, which fails when it settles where it may starve."""


@pytest.fixture
def delays(kafka: Kafka, tmp_path: Path) -> Iterator[Delays]:
    with Delays(tmp_path, kafka.bootstrap, 1) as delays:
        yield delays


def fill(delays: Delays) -> None:
    """Tasks for later, the first ones moved, and a few that are due."""
    later = time.time() + 3600
    delays.publish((f"later-{n}", later + n) for n in range(ENTRIES))
    delays.publish((f"later-{n}", later - n) for n in range(CANCELLED))
    delays.published.clear()
    delays.publish((f"soon-{n}", time.time() + 1) for n in range(10))


def loaders(worker: WorkerProcess) -> list[psutil.Process]:
    """The processes that load something for it."""
    found = []
    for process in family(worker):
        try:
            if any("timekeeper.loader" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def check_complete(delays: Delays, worker: WorkerProcess, files: Path) -> None:
    """All waits, what was due is handed over once, and no file has a name."""
    delays.wait_held(worker)
    delays.wait_handed(10, 30)
    delays.check()
    wait_for(lambda: metric(worker, "kworker_delayed_tasks") == ENTRIES, 10, "all that waits")
    assert list(files.iterdir()) == []
    wait_for(lambda: not loaders(worker), 10, "the end of the process")


def test_a_long_log_is_loaded_by_a_process_that_ends(delays: Delays, tmp_path: Path) -> None:
    fill(delays)
    files = tmp_path / "state"
    worker = delays.worker("--state-dir", str(files))
    wait_for(lambda: loaders(worker), 30, "a process that loads")
    check_complete(delays, worker, files)
    assert "it is read here" not in worker.logged()
    worker.terminate()
    assert worker.wait() == 0


@pytest.mark.parametrize("patience", [0.0, 0.1, 30.0])
def test_what_is_not_loaded_in_idle_time_is_loaded_nevertheless(
    delays: Delays, tmp_path: Path, patience: float
) -> None:
    fill(delays)
    settings = {**ALONE, "bootstrap.servers": delays.bootstrap, "enable.partition.eof": "true"}
    loading = Loading(Order(settings, delays.log, 0, str(tmp_path), 1, 1, patience))
    try:
        cache = wait_for(loading.poll, 60, "the cache")
        assert cache is not None
        assert cache.pending == ENTRIES + 10
        assert cache.find(b"later-0") is not None
        cache.close()
    finally:
        loading.close()


@pytest.mark.skipif(sys.platform != "linux", reason="idle time is of Linux")
def test_what_was_read_in_idle_time_is_settled_outside_of_it(
    delays: Delays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling is one step that no deadline ends: on a full machine it would take as long as that is full."""
    monkeypatch.setattr(module, "_BOOT", WATCHED)
    delays.publish((f"later-{n}", time.time() + 3600) for n in range(10))
    settings = {**ALONE, "bootstrap.servers": delays.bootstrap, "enable.partition.eof": "true"}
    loading = Loading(Order(settings, delays.log, 0, str(tmp_path), 1, 1, 600.0))
    try:
        cache = wait_for(loading.poll, 60, "the cache")
        assert cache is not None
        assert cache.pending == 10
        cache.close()
    finally:
        loading.close()


def test_when_that_process_is_killed_the_worker_reads_the_log_itself(delays: Delays, tmp_path: Path) -> None:
    fill(delays)
    files = tmp_path / "state"
    worker = delays.worker("--state-dir", str(files))
    (loader,) = wait_for(lambda: loaders(worker), 30, "a process that loads")
    loader.kill()
    check_complete(delays, worker, files)
    assert "it is read here" in worker.logged()


def test_a_worker_that_is_killed_leaves_neither_the_process_nor_a_file(delays: Delays, tmp_path: Path) -> None:
    fill(delays)
    files = tmp_path / "state"
    worker = delays.worker("--state-dir", str(files))
    found = wait_for(lambda: loaders(worker), 30, "a process that loads")
    worker.kill9()
    wait_for(lambda: gone(found), 20, "the end of the process")
    wait_for(lambda: not list(files.iterdir()), 5, "no file")
    heir = delays.worker("--state-dir", str(files))
    check_complete(delays, heir, files)


def test_a_worker_that_is_stopped_while_it_loads_takes_the_process_along(delays: Delays, tmp_path: Path) -> None:
    fill(delays)
    worker = delays.worker("--state-dir", str(tmp_path / "state"))
    found = wait_for(lambda: loaders(worker), 30, "a process that loads")
    for process in found:
        process.send_signal(signal.SIGSTOP)  # so that it is not done before
    worker.terminate()
    assert worker.wait() == 0
    assert gone(found)


def test_a_short_log_is_read_by_the_worker(delays: Delays) -> None:
    delays.publish((f"soon-{n}", time.time() + 1) for n in range(10))
    worker = delays.worker()
    seen = []

    def held() -> bool:
        seen.extend(loaders(worker))
        return held_by(worker) == 1

    wait_for(held, 40, "the partition")
    assert seen == []
    delays.wait_handed(10, 30)
    delays.check()
