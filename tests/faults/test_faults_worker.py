"""FAULTS.md "Faults", what happens to the worker: killed, stopped, frozen, and tasks that hang."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from faults.bad_records import new
from faults.letters import last
from faults.storm import Backlog, seeded
from faults.tasks import PARTITIONS, Tasks, Watch, ids
from faults.worker import Calls, StartWorker, wait_committed
from kit import Kafka, produce, read_all, wait_for
from kit.stage import metric, owned
from kit.trial import Trial

SESSION = 6.0
"""The session timeout that workers have by default."""


def test_fault_01_kill_9(kafka: Kafka, tasks: Tasks, start_worker: StartWorker) -> None:
    """At random points; what a commit holds is never run again, the rest runs again and nothing is lost."""
    count = 3000
    tasks.publish(ids(count), seconds=0.004)
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))
    points = sorted(random.Random(seed).sample(range(1, count - 100), 3))
    print(f"FAULTS_SEED={seed}: killed when {points} tasks were done")
    with Watch(tasks):
        for point in points:
            worker = start_worker(kafka.bootstrap, tasks.topic, "--concurrency", "8", "--commit-interval", "200ms")
            wait_for(lambda point=point: len(tasks.ended()) >= point, 30, f"{point} tasks are done")  # type: ignore[misc]
            worker.kill9()
            tasks.after_a_kill()
        done = len(tasks.ended())
        worker = start_worker(kafka.bootstrap, tasks.topic, "--concurrency", "8")
        wait_for(lambda: len(tasks.ended()) > done, 2 * (SESSION + 2), "the next one works")
        wait_committed(worker, count)
    tasks.check()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_fault_01_kill_9_at_20_points(kafka: Kafka, tmp_path: Path) -> None:
    """Again and again, with keys: L, O, C; a second run only of what was in flight or uncommitted; and R.

    R is the session and two seconds, the start of the new process too. On a machine that others use, two may be later.
    """
    chance = seeded()
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 1000)
        killed, recovered = 0, list[float]()
        for point in (chance.randrange(1, 400) for _ in range(20)):
            backlog.fill()
            worker = trial.start("--concurrency", "8", "--order", "key", "--commit-interval", "200ms")
            done = len(trial.ledger.done)
            trial.wait(lambda done=done: len(trial.ledger.done) > done, "the next one works")  # type: ignore[misc]  # its default
            if killed:
                ended = [run.end for run in trial.ledger.runs if run.pid == worker.pid and run.outcome == "done"]
                first = min(end for end in ended if end is not None)
                recovered.append((first - killed) / 1e9)
            trial.wait_over(len(trial.ledger.over) + point)
            trial.kill(worker)
            killed = trial.killed[worker.pid]
        trial.start("--concurrency", "8", "--order", "key")
        trial.finish()
        print(f"seconds to the first success: {[round(seconds, 1) for seconds in recovered]}")
        assert sum(seconds > SESSION + 2 for seconds in recovered) <= 2
        assert trial.ledger.disorder(trial.killed) == []


def test_fault_03_sigterm_idle(kafka: Kafka, tasks: Tasks, start_worker: StartWorker) -> None:
    worker = start_worker(kafka.bootstrap, tasks.topic)
    worker.wait_ready()
    worker.terminate()
    assert worker.wait(15) == 0


def test_fault_03_sigterm_loaded(kafka: Kafka, tasks: Tasks, start_worker: StartWorker) -> None:
    """What runs may finish, what waits goes back: no task has a second run, none is lost."""
    tasks.publish(ids(2000), seconds=0.01)
    tasks.publish(ids(100, "retried"), seconds=0.01, fail=1)
    with Watch(tasks):
        worker = start_worker(kafka.bootstrap, tasks.topic, "--concurrency", "8", "--commit-interval", "60s")
        wait_for(lambda: len(tasks.ended()) >= 200, 30, "200 tasks are done")
        worker.terminate()
        assert worker.wait(25) == 0
        assert not tasks.all_ended()
        assert tasks.remembered() == tasks.ended().keys()
        worker = start_worker(kafka.bootstrap, tasks.topic)
        wait_committed(worker, tasks.total())
    assert set(tasks.ended().values()) == {1}
    again = {id for id, runs in tasks.started().items() if runs > 1}
    assert again == set(ids(100, "retried"))


def test_fault_03_sigterm_during_a_long_task(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    tasks.publish(ids(PARTITIONS, "long"), until=str(gate))
    worker = start_worker(kafka.bootstrap, tasks.topic, "--drain-timeout", "20s")
    wait_for(lambda: len(tasks.started()) == PARTITIONS, 20, "they run")
    worker.terminate()
    wait_for(lambda: "stopping" in worker.get("/readyz")[1], 10, "it stops")
    gate.touch()
    assert worker.wait(20) == 0
    assert len(tasks.remembered()) == PARTITIONS
    tasks.check()


def test_fault_03_sigterm_during_a_task_longer_than_the_grace(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    tasks.publish(ids(PARTITIONS, "long"), until=str(gate))
    tasks.publish(ids(100, "short"))
    worker = start_worker(kafka.bootstrap, tasks.topic, "--drain-timeout", "1s")
    wait_for(lambda: len(tasks.started()) == tasks.total(), 20, "they run")
    worker.terminate()
    assert worker.wait(1 + 15) == 4
    tasks.after_a_kill()
    gate.touch()
    wait_committed(start_worker(kafka.bootstrap, tasks.topic), tasks.total())
    tasks.check()
    assert {id for id, runs in tasks.started().items() if runs > 1} == set(ids(PARTITIONS, "long"))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_fault_04_a_second_signal_during_the_drain(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path, second: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    tasks.publish(ids(PARTITIONS, "long"), until=str(gate))
    worker = start_worker(kafka.bootstrap, tasks.topic)
    wait_for(lambda: len(tasks.started()) == PARTITIONS, 20, "they run")
    worker.terminate()
    wait_for(lambda: "stopping" in worker.get("/readyz")[1], 10, "it stops")
    worker.signal(second)
    assert worker.wait(5) == 4
    tasks.after_a_kill()
    gate.touch()
    wait_committed(start_worker(kafka.bootstrap, tasks.topic), tasks.total())
    tasks.check()


def test_fault_06_frozen_longer_than_the_session(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Another worker takes over. What the frozen one finishes when it wakes up is late: counted, and not committed."""
    held = ids(PARTITIONS, "held")
    tasks.publish(held, until=str(tmp_path / "{pid}"))
    tasks.publish(ids(200))
    with Watch(tasks):
        frozen = start_worker(kafka.bootstrap, tasks.topic, "--commit-interval", "100ms")
        wait_for(lambda: len(tasks.started()) == tasks.total(), 20, "they run")
        wait_for(lambda: len(tasks.remembered()) == 200, 10, "what is done is committed")
        frozen.freeze()
        other = start_worker(kafka.bootstrap, tasks.topic)
        wait_for(lambda: all(tasks.started()[id] == 2 for id in held), 3 * SESSION, "the other has taken over")
        (tmp_path / str(other.pid)).touch()
        wait_committed(other, tasks.total())
        frozen.thaw()
        wait_for(lambda: metric(frozen, "kworker_rebalances_total", event="lost") >= 1, 20, "it sees the loss")
        (tmp_path / str(frozen.pid)).touch()
        wait_for(lambda: metric(frozen, "kworker_late_results_total") == PARTITIONS, 20, "its results come late")
        wait_for(lambda: len(owned(frozen)) + len(owned(other)) == PARTITIONS, 20, "they share the work again")
        tasks.publish(ids(100, "afterwards"))
        wait_for(lambda: len(tasks.remembered()) == tasks.total(), 20, "all of it is committed")
    assert tasks.ended() == dict.fromkeys(tasks.places, 1) | dict.fromkeys(held, 2)


def test_fault_07_frozen_shorter_than_the_session(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    tasks.publish(ids(PARTITIONS, "held"), until=str(gate))
    tasks.publish(ids(1000), seconds=0.005)
    with Watch(tasks):
        worker = start_worker(kafka.bootstrap, tasks.topic, "--concurrency", "8")
        wait_for(lambda: len(tasks.ended()) >= 50, 20, "some are done")
        worker.freeze()
        time.sleep(3.0)  # the length of the freeze is the scenario
        worker.thaw()
        gate.touch()
        wait_committed(worker, tasks.total())
    tasks.check()
    assert metric(worker, "kworker_rebalances_total", event="lost") == 0
    assert metric(worker, "kworker_rebalances_total", event="assigned") == 1


def test_fault_09_hung_threads_are_replaced_and_too_many_end_the_worker(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, calls: Calls
) -> None:
    """Two slots, two lost: their tasks are dead letters, the others go on in new slots. A third is one too many: 6."""
    hang = new("hang", b'{"how": "sleep"}')
    produce(kafka.bootstrap, tasks.topic, [hang] * 2)
    tasks.publish(ids(200))
    worker = start_worker(kafka.bootstrap, tasks.topic, "--concurrency", "2", "--lost-slots", "2")
    wait_committed(worker, tasks.total() + 2)
    assert metric(worker, "kworker_threads_lost_total") == 2
    assert worker.status()["slots"]["thread"] == {"slots": 2, "busy": 0, "lost": 2}
    produce(kafka.bootstrap, tasks.topic, [hang])
    assert worker.wait(20) == 6
    worker = start_worker(kafka.bootstrap, tasks.topic)
    wait_committed(worker, tasks.total() + 3)
    tasks.check()
    letters = read_all(kafka.bootstrap, f"{tasks.topic}.dlq")
    assert {last(letter, "kworker-reason") for letter in letters} == {"timed-out"}
    assert len(letters) == calls.counted("hang")["sleep"] == 3
