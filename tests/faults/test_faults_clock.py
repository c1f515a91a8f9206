"""FAULTS.md "Faults" 36: the wall clock of a worker is set by an hour, back too, or drifts; what waits goes by another.

It is set for the worker's Python, in its children too. Its client, librdkafka, is not given this clock: it waits by the
system's monotonic one. The clock of schedules and delayed tasks is in test_faults_schedules.py and test_delay_*.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kit import Kafka, MakeTopic, NewRecord, produce, wait_for
from kit.stage import metric
from kit.worker_process import WorkerProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

SITE = Path(__file__).parents[1] / "kit" / "set_clock"
DEADLINE = WAIT = 3.0
"""Seconds: the time limit of the tasks of clock_plugin, and the wait for its retry."""
SESSION, GRACE = 6.0, 3.0
LATE = 5.0
"""Seconds by which a busy machine may be late; the clock is wrong by hundreds of times as much."""
LIMITED = ("clock.thread", "clock.coroutine", "clock.process")


class Scene:
    """A worker with a clock of its own, and what its tasks noted."""

    def __init__(self, folder: Path, bootstrap: str, topic: str) -> None:
        self._clock, self._events = folder / "clock", folder / "events"
        self._bootstrap, self._topic = bootstrap, topic
        given = ["--group", topic, "--topic", topic, "--bootstrap", bootstrap, "--plugin", "clock", "--processes", "1"]
        env = {"CLOCK": str(self._clock), "EVENTS": str(self._events)}
        grace = ["--drain-timeout", f"{GRACE:g}s"]
        self.worker = WorkerProcess(folder / "worker", *given, *grace, env=env, site=[SITE])

    def set_clock(self, ahead: float, drift: float) -> None:
        """Seconds ahead, and more for each second from now on."""
        part = self._clock.with_suffix(".part")
        part.write_text(f"{ahead} {drift}")
        part.rename(self._clock)

    def publish(self, *tasks: str) -> None:
        """One record for each."""
        produce(self._bootstrap, self._topic, [NewRecord(b"{}", None, (("ce_type", task.encode()),)) for task in tasks])

    def noted(self, task: str) -> list[dict[str, Any]]:
        """What this task noted."""
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return [line for line in map(json.loads, lines) if line["task"] == task]

    def wait_noted(self, count: int, *tasks: str) -> None:
        """Wait until each of these noted so much."""
        wait_for(lambda: all(len(self.noted(task)) >= count for task in tasks), 30, f"{count} of {tasks}")


@pytest.mark.parametrize(("ahead", "drift"), [(3600.0, 0.0), (-3600.0, 0.0), (0.0, 0.5), (0.0, -0.5)])
def test_fault_36_the_clock_of_a_worker_is_set_and_no_wait_ends_early_or_late(
    kafka: Kafka, topic: MakeTopic, tmp_path: Path, ahead: float, drift: float
) -> None:
    """Time limits, the wait for a retry, the session and the drain: each lasts what it should."""
    scene = Scene(tmp_path, kafka.bootstrap, topic())
    worker = scene.worker
    try:
        worker.wait_ready()
        scene.publish(*LIMITED, "clock.again")
        scene.wait_noted(1, *LIMITED, "clock.again")
        scene.set_clock(ahead, drift)
        set_at = time.monotonic()
        scene.wait_noted(2, *LIMITED, "clock.again")
        for task in (*LIMITED, "clock.again"):
            began, ended = scene.noted(task)
            assert DEADLINE - 0.05 <= ended["at"] - began["at"] <= DEADLINE + LATE, task
            passed = ended["at"] - began["at"]
            assert abs(ended["wall"] - began["wall"] - passed) > abs(ahead / 2 + drift), "its clock was not set"
        scene.set_clock(-ahead, -drift)
        while time.monotonic() < set_at + 2 * SESSION:  # for this long its heartbeats must be in time
            scene.publish("clock.note")
            time.sleep(0.5)  # the pace of the work
        assert worker.ready()
        assert metric(worker, "kworker_rebalances_total", event="assigned") == 1
        assert metric(worker, "kworker_rebalances_total", event="lost") == 0
        scene.publish("clock.hold")
        scene.wait_noted(1, "clock.hold")
        worker.terminate()
        stopped_at = time.monotonic()
        wait_for(lambda: "stopping" in worker.logged(), 10, "the stop")
        scene.set_clock(ahead, drift)
        assert worker.wait(GRACE + LATE) == 4  # the task does not end
        assert time.monotonic() - stopped_at >= GRACE - 0.05
    finally:
        worker.close()
