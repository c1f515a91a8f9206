"""Delayed tasks on a real Kafka: handed over once, never early, whoever dies."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from kit import Kafka
from kit.delays import Delays, random_dues


def seeded() -> random.Random:
    """KWORKER_TEST_SEED repeats a run; the seed is shown when the test fails."""
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.mark.timeout(180)
def test_3000_delayed_tasks_are_handed_over_once_and_none_early_through_a_kill(kafka: Kafka, tmp_path: Path) -> None:
    chance = seeded()
    with Delays(tmp_path, kafka.bootstrap) as delays:
        workers = [delays.worker() for _ in range(2)]
        delays.wait_held(*workers)
        delays.publish(random_dues(chance, 3_000, time.time() + 1, 12))
        delays.wait_handed(500, 30)
        killed = time.time()
        workers.pop().kill9()
        delays.wait_handed(3_000, 60)
        delays.wait_held(*workers)
        delays.check()
        calm = delays.lateness([(killed - 1, killed + 30)])
        print("lateness of the calm", calm[len(calm) // 2], calm[-1])
