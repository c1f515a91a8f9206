"""Must hold: with `--order key` the tasks of one key start in log order, one at a time, whatever happens to workers."""

from __future__ import annotations

import os
import random
from pathlib import Path

from kit import Kafka
from kit.trial import Trial, Work

KEYS = 60
EACH = 40


def test_each_keys_tasks_start_in_log_order_through_failures_retries_and_rebalances(
    kafka: Kafka, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    chance = random.Random(seed)
    work = []
    for seq in range(EACH):
        for key in range(KEYS):
            fail = chance.choices([0, 1, 2, 9], [88, 8, 3, 1])[0]
            dead = chance.random() < 0.01
            work.append(Work(f"{key}/{seq}", f"key {key}", seq=seq, ms=chance.uniform(1, 40), fail=fail, dead=dead))
    order = ("--order", "key", "--concurrency", "8")
    with Trial(tmp_path, kafka.bootstrap, 4) as trial:
        trial.publish(work)
        first = trial.start(*order)
        trial.wait_over(chance.randrange(200, 400))
        second = trial.start(*order)
        trial.wait(lambda: any(run.pid == second.pid for run in trial.ledger.runs), "a task in the second worker")
        trial.wait_over(chance.randrange(800, 1000))
        trial.kill(first)
        third = trial.start(*order)
        trial.wait(lambda: any(run.pid == third.pid for run in trial.ledger.runs), "a task in the third worker")
        trial.wait_over(chance.randrange(1500, 1800))
        second.terminate()
        assert second.wait() == 0
        trial.finish()
        disorder = trial.ledger.disorder(trial.killed)
        assert not disorder, f"O: {len(disorder)}: {disorder[:5]}"
        assert {run.outcome for run in trial.ledger.runs} >= {"done", "failed", "dead"}
        assert trial.dead() == {one.id for one in work if one.dead or one.fail == 9}
