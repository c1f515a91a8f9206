"""Work that does not end while faults come, how long a storm of them lasts, and the chance that drives it."""

from __future__ import annotations

import os
import random

from kit.trial import Trial, Work


def seeded() -> random.Random:
    """KWORKER_TEST_SEED repeats a run; the seed is shown when the test fails."""
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    return random.Random(seed)


def storm_seconds() -> float:
    """90, unless KWORKER_TEST_STORM says otherwise: 300 is what FAULTS.md asks for."""
    return float(os.environ.get("KWORKER_TEST_STORM") or 90)


class Backlog:
    """Keeps tasks waiting in the trial's topic, of ever higher numbers, which are also their ids.

    trouble: some fail at first, some are refused, so that dead letters have to be written.
    """

    def __init__(self, trial: Trial, least: int, *, ms: float = 10, keys: int = 64, trouble: bool = False) -> None:
        self._trial, self._least, self._ms, self._keys, self._trouble = trial, least, ms, keys, trouble

    def fill(self) -> None:
        """Publish until twice as many as `least` wait, if fewer than that do."""
        self._trial.ledger.read()
        published = len(self._trial.ledger.places)
        waiting = published - len(self._trial.ledger.over)
        if waiting < self._least:
            self.publish(2 * self._least - waiting)

    def publish(self, count: int) -> set[str]:
        """Publish so many, and return their ids."""
        published = len(self._trial.ledger.places)
        work = [self._work(n) for n in range(published, published + count)]
        self._trial.publish(work)
        return {one.id for one in work}

    def _work(self, n: int) -> Work:
        fail, dead = self._trouble and n % 50 == 7, self._trouble and n % 100 == 13
        return Work(f"{n}", f"key {n % self._keys}", seq=n, ms=self._ms, fail=int(fail), dead=dead)
