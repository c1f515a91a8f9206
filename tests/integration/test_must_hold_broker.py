"""Must hold: a broker that goes away for a while, or freezes, costs time and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kit import Broker
from kit.trial import Trial, Work

GOES_ON = 10.0
"""Seconds within which work goes on after the broker is back."""

TASKS = 6000


def work(prefix: str, count: int) -> list[Work]:
    """Some succeed after a retry, some never: dead letters have to be written, too."""
    return [
        Work(f"{prefix}{n}", partition=n % 4, ms=10, fail=int(n % 50 == 7), dead=n % 100 == 13) for n in range(count)
    ]


def goes_on(trial: Trial) -> None:
    """Within 10 s from now commits move, and what is published now is worked."""
    deadline = time.monotonic() + GOES_ON
    held = trial.commits.last.held
    trial.publish(work("after", 200))
    trial.wait(lambda: "after0" in trial.ledger.over, "new work to be done", deadline - time.monotonic())
    trial.wait(lambda: trial.commits.last.held > held, "new commits", deadline - time.monotonic())


def test_a_broker_that_is_restarted_in_the_middle_loses_and_repeats_nothing(own_broker: Broker, tmp_path: Path) -> None:
    """The session outlasts the restart, so that the partitions stay where they are."""
    with Trial(tmp_path, own_broker.bootstrap, 4) as trial:
        trial.publish(work("", TASKS))
        workers = [trial.start("--concurrency", "8", "-X", "session.timeout.ms=30000") for _ in range(2)]
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        trial.wait_over(len(trial.ledger.over) + 300)
        own_broker.restart()
        goes_on(trial)
        trial.finish()
        assert trial.exposed == []
        assert trial.living == workers


@pytest.mark.timeout(180)
def test_a_broker_that_is_frozen_for_20_s_loses_nothing_and_no_worker_dies(own_broker: Broker, tmp_path: Path) -> None:
    """Longer than the session: both workers lose their partitions, and may repeat what they had not committed."""
    with Trial(tmp_path, own_broker.bootstrap, 4) as trial:
        trial.publish(work("", TASKS))
        workers = [trial.start("--concurrency", "8") for _ in range(2)]
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        trial.wait_over(len(trial.ledger.over) + 300)
        own_broker.freeze()
        time.sleep(20)  # the fault itself
        own_broker.thaw()
        trial.ledger.read()
        trial.exposed.append(trial.ledger.exposed(trial.commits.last, {worker.pid for worker in workers}))
        goes_on(trial)
        trial.finish()
        assert trial.living == workers


def test_a_stop_whose_last_commit_the_broker_does_not_take_ends_in_time_with_code_4(
    own_broker: Broker, tmp_path: Path
) -> None:
    with Trial(tmp_path, own_broker.bootstrap, 4) as trial:
        trial.publish(Work(f"{n}", partition=n % 4, ms=10) for n in range(1000))
        worker = trial.start("--concurrency", "8")
        trial.wait_over(300)
        own_broker.freeze()
        over = len(trial.ledger.over)
        trial.wait(lambda: len(trial.ledger.over) > over, "work that can no longer be committed")
        worker.terminate()
        assert worker.wait() == 4
        assert "not committed" in worker.logged()
        own_broker.thaw()
        trial.ledger.read()
        trial.exposed.append(trial.ledger.exposed(trial.commits.last, {worker.pid}))
        trial.start()
        trial.finish()
