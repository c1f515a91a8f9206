"""FAULTS.md "Faults" 12 to 16: groups whose members come and go, with every protocol and identity they may have."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from faults.storm import Backlog, seeded, storm_seconds
from kit import Kafka
from kit.stage import metric
from kit.trial import Trial
from kit.worker_process import WorkerProcess

pytestmark = pytest.mark.long

CLASSIC = "classic"
CONSUMER = "consumer"
both = pytest.mark.parametrize("protocol", [CLASSIC, CONSUMER])

EVERY = 2.0
"""Seconds between two members that leave or join in a storm."""

GOODPUT = 0.3
"""What a storm leaves at least of the rate of tasks without one."""


def of(protocol: str, instance: str = "") -> list[str]:
    """The arguments of a member of four slots that keeps the order of keys."""
    identity = ["-X", f"group.instance.id={instance}"] if instance else []
    return ["--concurrency", "4", "--order", "key", "-X", f"group.protocol={protocol}", *identity]


def wait_stopped(trial: Trial, worker: WorkerProcess) -> None:
    """Wait for the end of a worker that was stopped: it has given everything back, unless it lost a partition (4)."""
    if worker.wait() == 4:
        print(f"worker {worker.pid} could not commit: {len(trial.expose(trial.commits.now(), worker))} tasks")
    else:
        assert worker.exit_code == 0, worker.logged()[-3000:]


def everybody_works(trial: Trial, backlog: Backlog, workers: list[WorkerProcess]) -> None:
    """Wait until each of these has begun a task after now, with tasks enough for all."""
    seen = len(trial.ledger.runs)
    pids = {worker.pid for worker in workers}

    def works() -> bool:
        backlog.fill()
        return pids <= {run.pid for run in trial.ledger.runs[seen:]}

    trial.wait(works, f"work in all of {pids}")


@pytest.mark.timeout(600)
@both
def test_fault_12_rebalance_storm(kafka: Kafka, tmp_path: Path, protocol: str) -> None:
    """Every two seconds one of four workers leaves, or comes back. Nothing runs twice; nearly all work goes on."""
    chance = seeded()
    with Trial(tmp_path, kafka.bootstrap, 8) as trial:
        backlog = Backlog(trial, 2000, ms=20)
        backlog.fill()
        for _ in range(4):
            trial.start(*of(protocol))
        everybody_works(trial, backlog, trial.living)
        calm = rate(trial, backlog, lambda: None, 10.0)
        toggles = 0

        def toggle() -> None:
            nonlocal toggles
            toggles += 1
            if len(trial.living) < 4:
                trial.start(*of(protocol))
            else:
                leaving = chance.choice(trial.living)
                leaving.terminate()
                wait_stopped(trial, leaving)

        storm = rate(trial, backlog, toggle, storm_seconds())
        print(f"{toggles} toggles; {calm:.0f} tasks a second, {storm:.0f} in the storm: {storm / calm:.2f}")
        assert storm >= GOODPUT * calm
        trial.finish()
        assert trial.ledger.disorder(trial.killed) == []


def rate(trial: Trial, backlog: Backlog, step: Callable[[], None], seconds: float) -> float:
    """Tasks done in a second while this goes on."""
    began, before = time.monotonic(), len(trial.ledger.done)
    while (passed := time.monotonic() - began) < seconds:
        backlog.fill()
        step()
        time.sleep(max(0.0, EVERY - (time.monotonic() - began - passed)))  # the pace is the scenario
        trial.ledger.read()
    return (len(trial.ledger.done) - before) / (time.monotonic() - began)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("partitions", [3, 12], ids=["fewer partitions", "more partitions"])
@both
def test_fault_13_scale_1_8_1(kafka: Kafka, tmp_path: Path, protocol: str, partitions: int) -> None:
    """One worker, eight at once, one again; with fewer partitions some of the eight have none."""
    with Trial(tmp_path, kafka.bootstrap, partitions) as trial:
        backlog = Backlog(trial, 2000)
        backlog.fill()
        first = trial.start(*of(protocol))
        everybody_works(trial, backlog, [first])
        others = [trial.start(*of(protocol)) for _ in range(7)]
        backlog.fill()
        seen = len(trial.ledger.runs)
        busy = min(partitions, 8)
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs[seen:]}) >= busy, f"work in {busy} workers")
        backlog.fill()
        for worker in others:
            worker.terminate()
        for worker in others:
            wait_stopped(trial, worker)
        everybody_works(trial, backlog, [first])
        trial.finish()
        assert trial.ledger.disorder(trial.killed) == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("identity", ["dynamic", "static"])
@both
def test_fault_14_rolling_restart(kafka: Kafka, tmp_path: Path, protocol: str, identity: str) -> None:
    """One after another is stopped and started again, twice: nothing runs twice, and no worker lives on with a fault.

    A worker that ends with 3, since the broker does not let its name in yet, is started again, as a supervisor does.
    """
    names = [f"member-{n}" if identity == "static" else "" for n in range(3)]
    with Trial(tmp_path, kafka.bootstrap, 6) as trial:
        backlog = Backlog(trial, 1500)
        backlog.fill()
        members = {n: trial.start(*of(protocol, name)) for n, name in enumerate(names)}
        everybody_works(trial, backlog, list(members.values()))
        for n in (0, 1, 2, 0, 1, 2):
            backlog.fill()
            members[n].terminate()
            assert members[n].wait() == 0, members[n].logged()[-3000:]
            members[n] = trial.start(*of(protocol, names[n]))
            ready(trial, members, n, of(protocol, names[n]))
            backlog.fill()
            everybody_works(trial, backlog, list(members.values()))
        assert {worker.exit_code for worker in members.values()} == {None}
        for worker in trial.workers:
            assert worker.exit_code is not None or "fatal" not in worker.logged(), "it lives on"
        assert trial.exposed == []
        trial.finish()
        assert trial.ledger.disorder(trial.killed) == []


def ready(trial: Trial, members: dict[int, WorkerProcess], number: int, arguments: list[str]) -> None:
    """Wait until a new member is ready, starting it again when it ends with 3."""
    deadline = time.monotonic() + 60
    refusals = 0
    while time.monotonic() < deadline:
        worker = members[number]
        if worker.exit_code is None:
            try:
                if worker.ready():
                    print(f"member {number} is back after {refusals} refusals")
                    return
            except (AssertionError, OSError):  # it has ended
                continue
            time.sleep(0.05)
            continue
        assert worker.exit_code == 3, worker.logged()[-3000:]
        refusals += 1
        members[number] = trial.start(*arguments)
    raise AssertionError(f"member {number} is not back after {refusals} refusals")


@pytest.mark.timeout(300)
def test_fault_15_from_the_classic_protocol_to_kip_848(kafka: Kafka, tmp_path: Path) -> None:
    """The broker lets nobody in with the new protocol while classic members share by cooperative-sticky, whose notes
    would be lost: such a worker ends with 3, and no other notices. When all were stopped, all may come back with it.
    """
    with Trial(tmp_path, kafka.bootstrap, 6) as trial:
        backlog = Backlog(trial, 1500)
        backlog.fill()
        members = [trial.start(*of(CLASSIC)) for _ in range(3)]
        everybody_works(trial, backlog, members)
        early = trial.start(*of(CONSUMER))
        assert early.wait() == 3
        assert "fatal: consumer: " in early.logged()
        backlog.fill()
        everybody_works(trial, backlog, members)
        for worker in members:
            worker.terminate()
        for worker in members:
            wait_stopped(trial, worker)
        backlog.fill()
        everybody_works(trial, backlog, [trial.start(*of(CONSUMER)) for _ in range(3)])
        trial.finish()
        assert trial.ledger.disorder(trial.killed) == []


@pytest.mark.timeout(300)
def test_fault_15_a_mixed_group_back_to_the_classic_protocol(kafka: Kafka, tmp_path: Path) -> None:
    """One member after another comes back with the old protocol; between the two the group is mixed, and works.

    When the last one of the new protocol leaves, the broker makes the group anew, and members may lose partitions.
    """
    with Trial(tmp_path, kafka.bootstrap, 6) as trial:
        backlog = Backlog(trial, 1500)
        backlog.fill()
        members = [trial.start(*of(CONSUMER)) for _ in range(3)]
        lost: dict[int, float] = {}
        went_back: dict[int, int] = {}  # who lost partitions: the next owner goes on from the last commit
        everybody_works(trial, backlog, members)
        for n in range(3):
            backlog.fill()
            before = trial.commits.now()
            members[n].terminate()
            wait_stopped(trial, members[n])
            members[n] = trial.start(*of(CLASSIC))
            members[n].wait_ready()
            everybody_works(trial, backlog, members)
            losers = [w for w in members if metric(w, "kworker_rebalances_total", event="lost") > lost.get(w.pid, 0)]
            for worker in losers:
                lost[worker.pid] = metric(worker, "kworker_rebalances_total", event="lost")
                trial.expose(before, worker)
                went_back[worker.pid] = time.monotonic_ns()
        print(f"lost: {lost}")
        trial.finish()
        assert trial.ledger.disorder(trial.killed | went_back) == []


def readiness(worker: WorkerProcess) -> list[int]:
    """What /readyz answers, again and again, until the worker ends."""
    found = []
    try:
        while worker.exit_code is None:
            found.append(worker.get("/readyz")[0])
    except (AssertionError, OSError, HTTPException):  # it ends, in the middle of an answer too
        pass
    return found


@pytest.mark.timeout(180)
@both
def test_fault_16_one_static_id_twice(kafka: Kafka, tmp_path: Path, protocol: str) -> None:
    """One of the two is told so by the broker, is not ready any more and ends with 3; the other does all the work."""
    with Trial(tmp_path, kafka.bootstrap, 2) as trial:
        backlog = Backlog(trial, 1500)
        backlog.fill()
        first = trial.start(*of(protocol, "same"))
        everybody_works(trial, backlog, [first])
        before = trial.commits.now()
        # Each is asked all the time, from before the second one comes to the end of who is fenced.
        with ThreadPoolExecutor() as pool:
            answers = pool.submit(readiness, first) if protocol == CLASSIC else None
            second = trial.start(*of(protocol, "same"))
            fenced, other = (first, second) if protocol == CLASSIC else (second, first)
            found = (answers or pool.submit(readiness, fenced)).result(60)
        assert fenced.wait() == 3
        print(f"{len(found)} answers, not ready in the last {len(found) - found.count(200)}")
        assert found[-1:] == [503], "it ended while it was ready"
        assert found == sorted(found), "it was ready again after it was not"
        assert protocol == CLASSIC or 200 not in found
        assert "fatal: consumer" in fenced.logged()
        trial.expose(before, fenced)
        backlog.fill()
        everybody_works(trial, backlog, [other])
        trial.finish()
