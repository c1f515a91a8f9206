"""Several workers under a supervisor, on a real Kafka: what dies comes back, what is counted stays, all of it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit import Kafka, wait_for
from kit.stage import Stage, metric
from kit.worker_process import WorkerProcess

SUCCEEDED = "kworker_tasks_succeeded_total"


@pytest.fixture
def stage(kafka: Kafka, tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


def members(supervisor: WorkerProcess) -> list[Any]:
    """The workers, as /status shows them."""
    found: list[Any] = supervisor.status()["workers"]
    return found


def pids(supervisor: WorkerProcess) -> list[int]:
    """The workers' processes."""
    return [member["pid"] for member in members(supervisor) if member["pid"]]


def all_ready(supervisor: WorkerProcess, count: int = 3) -> bool:
    return [member["ready"] for member in members(supervisor)] == [[]] * count


def start(stage: Stage, *arguments: str, partitions: int = 6, **options: Any) -> tuple[WorkerProcess, str]:
    """Three ready workers, each of which has partitions."""
    topic = stage.topic(partitions)
    supervisor = stage.start("--workers", "3", *arguments, topics=[topic], **options)
    stage.wait(
        lambda: all(member["status"].get("assignment") for member in members(supervisor)),
        "partitions of each worker",
        supervisor,
    )
    return supervisor, topic


def test_a_worker_killed_with_9_is_started_again_and_no_counter_falls(stage: Stage) -> None:
    supervisor, topic = start(stage)
    before = pids(supervisor)
    assert len(set(before)) == 3
    stage.publish(topic, "note", range(300))
    stage.wait(lambda: metric(supervisor, SUCCEEDED) == 300, "300 counted tasks", supervisor)
    stage.wait_all_committed(topic, supervisor)  # what is not would run, and count, again
    most = 0.0

    def never_less() -> float:
        nonlocal most
        now = metric(supervisor, SUCCEEDED)
        assert now >= most
        most = now
        return now

    never_less()
    os.kill(before[0], signal.SIGKILL)

    def again() -> bool:
        never_less()
        now = members(supervisor)  # one answer: its death may be noticed between two
        return [one["ready"] for one in now] == [[]] * 3 and before[0] not in {one["pid"] for one in now}

    stage.wait(again, "another worker in its place, ready", supervisor)
    assert set(before[1:]) < set(pids(supervisor))
    assert metric(supervisor, "kworker_worker_restarts_total") == 1
    assert metric(supervisor, "kworker_workers") == 3
    assert [member["last_exit"] for member in members(supervisor)] == [137, None, None]
    assert supervisor.get("/livez")[0] == 200
    stage.publish(topic, "note", range(300, 400))
    stage.wait(lambda: never_less() == 400, "400 counted tasks", supervisor)
    histogram = f"{SUCCEEDED.removesuffix('_succeeded_total')}_duration_seconds_count".replace("tasks", "task")
    assert metric(supervisor, histogram) == 400
    supervisor.terminate()
    assert supervisor.wait() == 0
    stage.wait_all_committed(topic)
    assert stage.numbers("ran") == dict.fromkeys(range(400), 1)


def test_sigterm_drains_all_workers_and_the_lines_of_each_are_told_apart(stage: Stage) -> None:
    supervisor, topic = start(stage, "--log-format", "json")
    for partition in range(6):
        stage.publish(topic, "hold", [partition], partition)
    stage.wait_noted("began", range(6), supervisor)
    processes = pids(supervisor)
    supervisor.terminate()
    stage.wait(lambda: supervisor.get("/readyz")[1].strip() == "stopping", "the stop", supervisor)
    assert [psutil.pid_exists(pid) for pid in processes] == [True] * 3
    stage.let_go()
    assert supervisor.wait() == 0
    assert [psutil.pid_exists(pid) for pid in processes] == [False] * 3
    stage.wait_all_committed(topic)
    assert stage.numbers("ran") == dict.fromkeys(range(6), 1)
    lines = [json.loads(line) for line in supervisor.logged().splitlines()]
    assert {line.get("worker") for line in lines if line["message"] == "stopped"} == {0, 1, 2, None}


def test_a_second_sigterm_ends_all_at_once_with_4(stage: Stage) -> None:
    supervisor, topic = start(stage, "--drain-timeout", "1h")
    stage.publish(topic, "hold", [0])
    stage.wait_noted("began", [0], supervisor)
    supervisor.terminate()
    stage.wait(lambda: "stopping" in supervisor.get("/readyz")[1], "the stop", supervisor)
    supervisor.terminate()
    assert supervisor.wait() == 4


def test_no_worker_outlives_a_supervisor_killed_with_9_and_they_drain(stage: Stage) -> None:
    supervisor, topic = start(stage)
    stage.publish(topic, "hold", [0])
    stage.publish(topic, "note", range(1, 50))
    stage.wait_noted("began", [0], supervisor)
    stage.wait_noted("ran", range(1, 50), supervisor)
    workers = [psutil.Process(pid) for pid in pids(supervisor)]
    supervisor.kill9()
    wait_for(lambda: supervisor.logged().count("stopping: no more records") == 3, 20, "the stop of each worker")
    stage.let_go()
    wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in workers), 20, "their end")
    stage.wait_all_committed(topic)
    assert stage.numbers("ran") == dict.fromkeys(range(50), 1)


def test_quiet_holds_for_workers_that_come_later(stage: Stage) -> None:
    supervisor, topic = start(stage)
    supervisor.signal(signal.SIGUSR1)
    stage.wait(lambda: supervisor.logged().count(" quiet: ") == 3, "three quiet workers", supervisor)
    os.kill(pids(supervisor)[1], signal.SIGKILL)
    stage.wait(lambda: supervisor.logged().count(" quiet: ") == 4, "a fourth one", supervisor)
    supervisor.signal(signal.SIGUSR2)
    stage.wait(lambda: supervisor.logged().count("stack of MainThread") == 3, "stacks of all", supervisor)
    stage.publish(topic, "note", [0])
    supervisor.terminate()
    assert supervisor.wait() == 0
    assert stage.numbers("ran") == {}


def test_static_members_have_names_of_their_own(stage: Stage) -> None:
    supervisor, topic = start(stage, kafka={"group.instance.id": "machine"})
    stage.publish(topic, "note", range(50))
    stage.wait_noted("ran", range(50), supervisor)
    assert all(member["starts"] == 1 for member in members(supervisor))  # of one name, one would fence the other
    supervisor.terminate()
    assert supervisor.wait() == 0


def test_what_no_restart_mends_ends_all_with_its_code(stage: Stage) -> None:
    supervisor = stage.start("--workers", "2", "--plugin", "nobody-wrote-it")
    assert supervisor.wait() == 5
    assert "no restart mends this" in supervisor.logged()
    assert "nobody-wrote-it" in supervisor.logged()


def test_a_worker_that_is_frozen_is_left_alone(stage: Stage) -> None:
    supervisor, topic = start(stage, "--stall-timeout", "4s")
    frozen = pids(supervisor)[0]
    os.kill(frozen, signal.SIGSTOP)
    time.sleep(9.0)  # the freeze is the fault: twice what a silence may last
    os.kill(frozen, signal.SIGCONT)
    stage.publish(topic, "note", range(50))
    stage.wait_noted("ran", range(50), supervisor)
    assert frozen in pids(supervisor)
    supervisor.terminate()
    assert supervisor.wait() == 0
