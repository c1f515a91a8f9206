"""How long a storm of faults lasts, and the chance that drives it."""

from __future__ import annotations

import os
import random


def seeded() -> random.Random:
    """KWORKER_TEST_SEED repeats a run; the seed is shown when the test fails."""
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    return random.Random(seed)


def storm_seconds() -> float:
    """90, unless KWORKER_TEST_STORM says otherwise: 300 is what FAULTS.md asks of a release."""
    return float(os.environ.get("KWORKER_TEST_STORM") or 90)
