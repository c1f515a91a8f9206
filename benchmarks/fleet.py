"""What is measured of several workers of a peer: how work scales out, and what joining and leaving costs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack

from benchmarks import topics
from benchmarks.run import Failed, Run
from benchmarks.trial import MIB, Trial
from kit.waiting import wait_for

JOINED = 60.0  # seconds for all workers to have partitions
PART = 0.7  # of what is left when all have joined: behind it workers run dry, one after the other
STEADY, EVERY, CHANGES = 10.0, 10.0, 4  # seconds, seconds, how often
FEW_SECONDS = 0.2


def scale(trial: Trial) -> None:
    """How fast so many workers are, from the moment all have joined; the ideal is what their slots could do."""
    workload = trial.workload
    with ExitStack() as stack:
        runs = [stack.enter_context(trial.start()) for _ in range(workload.workers)]
        _joined(trial, workload.workers)
        before, begin = _cpu(runs), runs[0].until(0)
        end = runs[0].until(begin.done + int((trial.tasks - begin.done) * PART))
        after = _cpu(runs)
        runs[0].until(trial.tasks)
        held = [run.look() for run in runs]
        trial.committed()
        _end(runs)
    trial.figures["pss"] = sum(one.proportional for one in held) / MIB
    if (count := end.done - begin.done) == 0:
        return
    rate = count / (end.at - begin.at)
    ideal = workload.slots * workload.workers / (workload.cost(0) / 1000)
    trial.figures |= {"rate": rate, "of_ideal": rate / ideal, "cpu_us": (after - before) / count * 1e6}


def rebalance(trial: Trial) -> None:
    """Tasks a second while one of the workers leaves and another joins at the same moment, against when nobody does.

    That a worker which is starting does nothing yet is part of the result.
    """
    steady, every, changes = (FEW_SECONDS, FEW_SECONDS, 1) if trial.few else (STEADY, EVERY, CHANGES)
    with ExitStack() as stack:
        runs = [stack.enter_context(trial.start()) for _ in range(trial.workload.workers)]
        _joined(trial, len(runs))
        calm = _rate(trial, steady)
        done, began = trial.effect.done(), time.monotonic()
        gone = []
        for _ in range(changes):
            runs[0].leave()
            gone.append(runs.pop(0))
            runs.append(stack.enter_context(trial.start()))
            time.sleep(every)  # how long a change is part of: a length of the measurement, nothing is waited for
        moved = (trial.effect.done() - done) / (time.monotonic() - began)
        if not trial.few and trial.effect.done() == trial.tasks:
            raise Failed("ran out of tasks while workers came and went")
        for run in gone:
            run.ended()
        _joined(trial, len(runs))  # one that has not begun does not know SIGTERM yet
        runs[0].until(trial.tasks)
        trial.committed()
        _end(runs)
    if calm and moved:
        trial.figures |= {"rate": moved, "steady": calm, "of_steady": moved / calm}


def _joined(trial: Trial, workers: int) -> None:
    try:
        wait_for(
            lambda: topics.members(trial.bootstrap, trial.place.group) == workers, JOINED, f"{workers} workers to join"
        )
    except AssertionError as error:
        raise Failed(str(error)) from None


def _rate(trial: Trial, seconds: float) -> float:
    done, began = trial.effect.done(), time.monotonic()
    time.sleep(seconds)  # the length of the measurement
    return (trial.effect.done() - done) / (time.monotonic() - began)


def _cpu(runs: Iterable[Run]) -> float:
    return sum(run.tree.cpu() for run in runs)


def _end(runs: Iterable[Run]) -> None:
    for run in runs:
        run.leave()
    for run in runs:
        run.ended()
