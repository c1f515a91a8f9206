"""Must hold: workers that are killed, added and stopped lose nothing, and run again only what a kill cut short."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from kit import Kafka
from kit.trial import Trial, Work

PARTITIONS = 8
TASKS = 20_000


def seeded() -> random.Random:
    """KWORKER_TEST_SEED repeats a run; the seed is shown when the test fails."""
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    return random.Random(seed)


def mixed(chance: random.Random, count: int) -> list[Work]:
    """Mostly tasks that succeed; some after a retry, some never."""
    work = []
    for n in range(count):
        what = chance.random()
        fail = 9 if what < 0.002 else 1 if what < 0.01 else 0
        work.append(
            Work(f"{n}", partition=n % PARTITIONS, ms=chance.uniform(1, 20), fail=fail, dead=0.01 < what < 0.015)
        )
    return work


@pytest.mark.timeout(300)
def test_20000_tasks_survive_five_kills_a_new_worker_and_a_sigterm(kafka: Kafka, tmp_path: Path) -> None:
    chance = seeded()
    work = mixed(chance, TASKS)
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        trial.publish(work)
        for _ in range(3):
            trial.start("--concurrency", "8")
        for kill in range(5):
            trial.wait_over(chance.randrange(500 + 3000 * kill, 3500 + 3000 * kill))
            busy = [worker for worker in trial.living if worker.pid in {run.pid for run in trial.ledger.runs[-200:]}]
            trial.kill(chance.choice(busy))
            trial.start("--concurrency", "8")
            if kill == 2:
                trial.start("--concurrency", "8")
        trial.wait_over(chance.randrange(16_500, 18_500))
        leaving = chance.choice([worker for worker in trial.living if worker.ready()])
        leaving.terminate()
        assert leaving.wait() == 0
        trial.finish()
        assert trial.dead() == {one.id for one in work if one.dead or one.fail == 9}
        assert all(trial.commits.last.committed[partition] for partition in range(PARTITIONS))


def test_a_sigterm_while_the_group_waits_for_a_killed_member_runs_nothing_twice(kafka: Kafka, tmp_path: Path) -> None:
    """Commits are not answered then, and refused afterwards: the stop waits, and commits again."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        trial.publish(Work(f"{n}", partition=n % PARTITIONS, ms=10) for n in range(12_000))
        killed = trial.start("--concurrency", "4", "-X", "session.timeout.ms=9000")
        leaving = trial.start("--concurrency", "4")
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        trial.wait_held(trial.commits.last.held + 1)  # the group has settled, and commits flow once a second
        cut = trial.kill(killed)
        joining = trial.start("--concurrency", "32")
        trial.wait(lambda: trial.commits.unchanged > 2, "commits that are not answered")
        done = len(trial.ledger.done)
        trial.wait(lambda: len(trial.ledger.done) > done, "work that goes on all the same")
        leaving.terminate()
        assert leaving.wait() == 0
        trial.finish()
        assert trial.ledger.repeats().keys() <= cut
        assert {run.pid for run in trial.ledger.runs} == {killed.pid, leaving.pid, joining.pid}


def test_workers_that_join_and_stop_by_sigterm_run_nothing_twice(kafka: Kafka, tmp_path: Path) -> None:
    """One of them stops while its retries wait, one while it has just joined."""
    work = mixed(seeded(), 6000)
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        trial.publish(work)
        first = trial.start("--concurrency", "8")
        trial.wait_over(500)
        second = trial.start("--concurrency", "8")
        trial.wait(lambda: any(run.pid == second.pid for run in trial.ledger.runs), "a task in the second worker")
        third = trial.start("--concurrency", "8")
        third.wait_ready()
        for worker in (third, first):
            worker.terminate()
            assert worker.wait() == 0
        trial.finish()
        assert trial.exposed == []
        assert {run.pid for run in trial.ledger.runs} >= {first.pid, second.pid}
