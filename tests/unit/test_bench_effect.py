"""The benchmark counts right: tasks done, missing and repeated by its file, and the ideal it compares with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from benchmarks.effect import BLOCK, Effect
from benchmarks.plan import WORKLOADS
from benchmarks.workload import Workload


def test_every_task_is_counted_once_and_every_run(tmp_path: Path) -> None:
    tasks = 3 * BLOCK + 17
    effect = Effect.create(tmp_path / "effect", tasks)
    assert (effect.tasks, effect.done(), effect.runs()) == (tasks, 0, 0)
    order = list(range(tasks))
    random.Random(1).shuffle(order)
    for count, task in enumerate(order, 1):
        effect.marks[task] += 1
        effect.note(task, task + 10**18)
        if count % 1000 == 0:
            assert effect.done() == count
    effect.marks[5] += 2
    assert (effect.done(), effect.runs()) == (tasks, tasks + 2)
    assert all(effect.moment(task) == task + 10**18 for task in order)
    seen_by_another_process = Effect(tmp_path / "effect")
    assert (seen_by_another_process.tasks, seen_by_another_process.done()) == (tasks, tasks)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_payloads_are_json_of_one_size(workload: Workload) -> None:
    for n in (0, 1, 99, 10_000, workload.tasks - 1):
        value = workload.payload(n)
        assert len(value) == workload.size
        told = json.loads(value)
        assert (told["n"], told["ms"]) == (n, workload.cost(n))


def test_the_ideal_is_what_perfect_slots_need() -> None:
    steady = Workload("x", "", "drain", 100, 0, cost=lambda n: 10, slots=10, servers="slots")
    assert steady.ideal(100, first=10) == pytest.approx(0.09)  # ten end at 10 ms, the last ten at 100 ms
    slow = Workload("x", "", "drain", 10, 0, cost=lambda n: 1000 if n == 0 else 1, slots=2, servers="slots")
    assert slow.ideal(10, first=1) == pytest.approx(0.999)  # one slot has the slow one, the other all the rest
    assert Workload("x", "", "drain", 1, 0).ideal(1, 1) is None
