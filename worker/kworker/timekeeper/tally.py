"""What the timekeeper counts, and shows; its thread is the only one that writes here."""

from __future__ import annotations

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
        self.takeover_seconds = 0.0
        """How long the last take-over took."""
        metrics.counted("kworker_delayed_ended_total", lambda: {(how,): n for how, n in self.ended.items()})
        metrics.gauge("kworker_delayed_tasks", lambda: self.pending)
        metrics.gauge("kworker_delayed_due_tasks", lambda: self.overdue)
        metrics.gauge("kworker_delay_partitions", lambda: self.partitions)
        metrics.gauge("kworker_delay_takeover_seconds", lambda: self.takeover_seconds)
