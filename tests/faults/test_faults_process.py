"""What happens to the whole process: a thread that holds the GIL, process 1 of a container, being frozen."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kit import Kafka, wait_for
from kit.stage import PLUGIN, Stage
from kit.worker_process import WorkerProcess

ABORTED = -signal.SIGABRT
STALL = ("--stall-timeout", "4s")


@pytest.fixture
def stage(kafka: Kafka, tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


def test_fault_08_a_task_that_holds_the_gil_ends_the_worker_and_is_named(stage: Stage) -> None:
    topic = stage.topic()
    worker = stage.start(*STALL, topics=[topic])
    stage.publish(topic, "note", range(10))
    stage.wait_noted("ran", range(10), worker)
    stage.publish(topic, "hog", [10])
    assert worker.wait() == ABORTED  # 134 for a shell
    logged = worker.logged()
    assert "something holds the GIL" in logged
    assert "Fatal Python error: Aborted" in logged
    assert "probe_plugin.py" in logged
    assert "in hog" in logged  # the stack of the thread that holds it
    assert "in _loop" in logged  # and of the others
    assert stage.numbers("ran") == dict.fromkeys(range(10), 1)
    assert stage.committed(topic)[0][0] in range(11)  # the hog's offset is open


def test_fault_08_a_supervisor_ends_such_a_worker_and_starts_another_one(stage: Stage) -> None:
    topic = stage.topic()
    worker = stage.start(*STALL, "--workers", "2", topics=[topic])
    stage.wait(worker.ready, "a ready worker", worker)
    stage.publish(topic, "hog", [0])
    stage.wait(lambda: "code=134" in worker.logged(), "the end of the worker that does not move", worker)
    assert "in hog" in worker.logged()
    stage.wait(lambda: sum(one["starts"] for one in worker.status()["workers"]) >= 3, "another one", worker)


def test_a_frozen_worker_is_not_taken_for_a_stuck_one(stage: Stage) -> None:
    topic = stage.topic()
    worker = stage.start(*STALL, topics=[topic])
    stage.publish(topic, "note", [0])
    stage.wait_noted("ran", [0], worker)
    (sentinel,) = psutil.Process(worker.pid).children()
    worker.freeze()
    time.sleep(9.0)  # the freeze is the fault: twice what a silence may last
    worker.thaw()
    stage.publish(topic, "note", [1])
    stage.wait_noted("ran", [1], worker)
    sentinel.kill()  # another one takes its place
    stage.wait(
        lambda: [one.pid for one in psutil.Process(worker.pid).children()] != [sentinel.pid], "a sentinel", worker
    )
    worker.terminate()
    assert worker.wait() == 0
    assert not sentinel.is_running()


# -- 5: process 1 -------------------------------------------------------------------------------------------------

NAMESPACE = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


def _can_unshare() -> bool:
    found = shutil.which(NAMESPACE[0])
    return found is not None and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def first(stage: Stage) -> Iterator[tuple[WorkerProcess, psutil.Process, str]]:
    """A worker that is process 1 of a namespace: what holds the namespace, process 1, and its topic."""
    if not _can_unshare():
        pytest.skip("a namespace of processes cannot be made here: it takes root and util-linux")
    topic = stage.topic()
    options = ["--group", stage.group, "--bootstrap", stage.bootstrap, "--plugin", "probe", "--topic", topic]
    env = {"PROBE_FOLDER": str(stage.folder)}
    worker = WorkerProcess(stage.folder / "first", *options, env=env, site=[PLUGIN], under=NAMESPACE)
    try:
        worker.wait_ready()
        (process,) = psutil.Process(worker.pid).children()
        yield worker, process, topic
    finally:
        worker.close()


def test_fault_05_process_1_reaps_orphans_and_leaves_children_to_who_waits_for_them(
    stage: Stage, first: tuple[WorkerProcess, psutil.Process, str]
) -> None:
    worker, process, topic = first
    stage.publish(topic, "orphan", [0])
    (own,) = process.children()
    stage.wait(lambda: len(process.children()) == 2, "an orphan", worker)
    wait_for(lambda: process.children() == [own], 20, "the end of the orphan, reaped")
    stage.let_go()
    stage.wait_noted("exit 7", [0], worker)  # nobody took it from under the plugin
    process.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert stage.committed(topic)[0][0] == 1


def test_fault_05_process_1_ends_with_the_code_of_the_worker(
    stage: Stage, first: tuple[WorkerProcess, psutil.Process, str]
) -> None:
    worker, process, topic = first
    stage.publish(topic, "hold", [0])
    stage.wait_noted("began", [0], worker)
    process.send_signal(signal.SIGTERM)
    stage.wait(lambda: "stopping" in worker.logged(), "the stop", worker)
    process.send_signal(signal.SIGTERM)
    assert worker.wait() == 4


def test_fault_05_process_1_tells_a_death_by_signal(
    stage: Stage, first: tuple[WorkerProcess, psutil.Process, str]
) -> None:
    worker, process, _ = first
    (own,) = process.children()
    own.kill()
    assert worker.wait() == 128 + signal.SIGKILL
