"""What the timekeeper counts, and shows; its thread is the only one that writes here."""

from __future__ import annotations

from collections.abc import Sequence

from kworker.core.delayed import Outcome
from kworker.metrics import Metrics


class Tally:
    """The numbers of one timekeeper, on the page of `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self.late = metrics.histogram("kworker_delay_lateness_seconds").observe_many
        """Told by how many seconds tasks were handed over after they were due."""
        self.ended = dict.fromkeys(map(str, Outcome), 0)
        """How many waits ended how."""
        self.partitions = 0
        """Partitions that are taken over."""
        self.pending = 0
        """Tasks that wait in them."""
        self.overdue = 0
        """Tasks that are due there and not handed over yet."""
        self.schedules = 0
        """Schedules that stand there."""
        self.schedules_newer = 0
        """Those beside them that only newer workers can read."""
        self.schedule_overdue = 0.0
        """By how many seconds the one is late that should have fired first, and did not yet."""
        self.log_partitions = 0
        """How many partitions the delay log has."""
        self._takeover_seconds = self._takeover_at = 0.0
        self._runs = self._missed = 0
        self._late = metrics.histogram("kworker_schedule_lateness_seconds").observe_many
        metrics.counted("kworker_delayed_ended_total", lambda: {(how,): n for how, n in self.ended.items()})
        metrics.gauge("kworker_delayed_tasks", lambda: self.pending)
        metrics.gauge("kworker_delayed_due_tasks", lambda: self.overdue)
        metrics.gauge("kworker_delay_partitions", lambda: self.partitions)
        metrics.gauge("kworker_delay_log_partitions", lambda: self.log_partitions)
        metrics.gauge("kworker_delay_takeover_seconds", lambda: self._takeover_seconds)
        metrics.gauge("kworker_delay_takeover_timestamp_seconds", lambda: self._takeover_at)
        metrics.gauge("kworker_schedules", lambda: self.schedules)
        metrics.gauge("kworker_schedules_unreadable", lambda: self.schedules_newer)
        metrics.gauge("kworker_schedule_overdue_seconds", lambda: self.schedule_overdue)
        metrics.counted("kworker_schedule_runs_total", lambda: self._runs)
        metrics.counted("kworker_schedule_missed_total", lambda: self._missed)

    def took_over(self, seconds: float, wall: int) -> None:
        """A partition was taken over, in so many seconds. wall: the clock, in ms since the epoch."""
        self._takeover_seconds, self._takeover_at = seconds, wall / 1000

    def fired(self, lateness: Sequence[float], *, missed: bool) -> None:
        """A schedule published a run for each of these, so many seconds late; missed: it left times out."""
        self._runs += len(lateness)
        self._missed += missed
        self._late(lateness)
