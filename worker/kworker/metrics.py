"""Every metric of kworker in one table, and the plain numbers behind them.

Owns: the names, labels and help texts that users scrape (a contract: the README lists them), the counters,
histograms and gauge readers of one worker process, and the page that shows them.
Promises: counting touches one plain number and no lock; prometheus_client is called only while a page is made, in
the thread that asks for it. Each `Cell` and `Histogram` has ONE writing thread (two would lose counts); any thread
may read. A label value is a known name or one of a closed set, else `_unknown`: no message can add a series. A gauge
that cannot be read is left out and logged once; it never breaks the page.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product
from typing import Literal, NamedTuple

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from kworker.duration import MAXIMUM
from kworker.task import Reason

Labels = tuple[str, ...]
"""The label values of one series, in the order of the table."""
Reading = float | Mapping[Labels, float]
"""What a reader returns: one number, or one a series."""

UNKNOWN = "_unknown"
"""The label value that stands for every name which is not known here."""

_log = logging.getLogger(__name__)

_CLOSED: dict[str, Sequence[str]] = {
    "error": ("exception", "timeout", "crash", "rejected"),
    "event": ("assigned", "revoked", "lost"),
    "executor": ("thread", "process", "coroutine"),
    "reason": tuple(Reason),
    "result": ("ok", "error"),
    "why": ("cancelled", "protocol", "start", "stop", "timeout"),
}
_NAMED = ("task", "topic")

_MERGE: dict[str, Callable[[float, float], float]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
    "last": lambda one, other: other,
}


class MetricSpec(NamedTuple):
    """One row of the table. `merge` says how the values of one series add up over several processes."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    unit: str = ""
    merge: Literal["sum", "max", "min", "last"] = "sum"
    buckets: tuple[float, ...] = ()


_DURATION = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_WAIT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)

_ROWS = (
    MetricSpec("kworker_tasks_received_total", "counter", ("topic",), "Records read from a topic."),
    MetricSpec("kworker_tasks_succeeded_total", "counter", ("task",), "Tasks that succeeded."),
    MetricSpec("kworker_tasks_failed_total", "counter", ("task", "error"), "Attempts that failed, by what failed."),
    MetricSpec("kworker_tasks_retried_total", "counter", ("task",), "Failed attempts that will be tried again."),
    MetricSpec(
        "kworker_tasks_postponed_total", "counter", ("task",), "Runs put off until the schema registry answers again."
    ),
    MetricSpec(
        "kworker_tasks_dead_lettered_total",
        "counter",
        ("task", "reason"),
        "Records set aside as dead letters and acknowledged by the broker.",
    ),
    MetricSpec(
        "kworker_tasks_abandoned_total",
        "counter",
        (),
        "Tasks still running when the budget of a revoke or a stop ended; they run again elsewhere.",
    ),
    MetricSpec(
        "kworker_replies_refused_total",
        "counter",
        (),
        "Messages that asked for their result to go to a topic that is not one of the reply topics.",
    ),
    MetricSpec(
        "kworker_late_results_total",
        "counter",
        (),
        "Results that came after their partition had gone to another worker, and were ignored.",
    ),
    MetricSpec(
        "kworker_task_duration_seconds",
        "histogram",
        ("task",),
        "How long one attempt ran.",
        unit="seconds",
        buckets=_DURATION,
    ),
    MetricSpec(
        "kworker_task_wait_seconds",
        "histogram",
        ("task",),
        "From publishing a task to the start of its first attempt.",
        unit="seconds",
        buckets=_WAIT,
    ),
    MetricSpec("kworker_tasks_in_flight", "gauge", (), "Tasks read and not yet finished."),
    MetricSpec("kworker_delayed_tasks", "gauge", (), "Tasks that wait for their due time."),
    MetricSpec("kworker_slots", "gauge", ("executor",), "Slots that can run tasks."),
    MetricSpec("kworker_slots_busy", "gauge", ("executor",), "Slots that are running a task."),
    MetricSpec(
        "kworker_threads_lost_total", "counter", (), "Threads given up because a task hung in them; each was replaced."
    ),
    MetricSpec("kworker_children_started_total", "counter", (), "Child processes that were started."),
    MetricSpec("kworker_children_killed_total", "counter", ("why",), "Child processes that were killed, by why."),
    MetricSpec(
        "kworker_consumer_lag",
        "gauge",
        ("topic", "partition"),
        "Log end minus committed offset of an assigned partition.",
        merge="max",
    ),
    MetricSpec(
        "kworker_committed_offset",
        "gauge",
        ("topic", "partition"),
        "Last committed offset of an assigned partition.",
        merge="max",
    ),
    MetricSpec(
        "kworker_completion_gap",
        "gauge",
        ("topic", "partition"),
        "Highest finished offset minus committed offset: how far the oldest open task holds the commit back.",
        merge="max",
    ),
    MetricSpec(
        "kworker_oldest_unfinished_seconds",
        "gauge",
        (),
        "Age of the task that has been unfinished for longest.",
        unit="seconds",
        merge="max",
    ),
    MetricSpec(
        "kworker_paused_partitions", "gauge", (), "Assigned partitions from which nothing is taken at the moment."
    ),
    MetricSpec("kworker_rebalances_total", "counter", ("event",), "Rebalance events of the consumer group."),
    MetricSpec("kworker_commits_total", "counter", ("result",), "Offset commits, by result."),
    MetricSpec(
        "kworker_metadata_truncated_total",
        "counter",
        (),
        "Commits whose metadata could not hold every finished offset; a crash would run the others again.",
    ),
    MetricSpec(
        "kworker_consume_gaps_total",
        "counter",
        (),
        "Jumps in the received offsets after an error, each followed by a seek back.",
    ),
    MetricSpec(
        "kworker_offset_loss_total", "counter", ("topic",), "Offsets skipped because the log no longer had them."
    ),
    MetricSpec(
        "kworker_forward_failures_total",
        "counter",
        ("topic",),
        "Writes on behalf of a record (dead letter, retry, publication) that failed, by the topic it was read from.",
    ),
    MetricSpec(
        "kworker_last_poll_timestamp_seconds",
        "gauge",
        (),
        "When the consumer was last polled, in seconds since the epoch.",
        unit="seconds",
        merge="min",
    ),
    MetricSpec("kworker_log_lines_dropped_total", "counter", (), "Log lines dropped to keep the log within its rate."),
    MetricSpec(
        "kworker_build_info",
        "gauge",
        ("version", "python", "librdkafka"),
        "Versions of this worker; the value is always 1.",
        merge="last",
    ),
)

METRICS: Mapping[str, MetricSpec] = {row.name: row for row in _ROWS}
"""The table, by name."""


class Cell:
    """A counter as one plain number: its only writer does `cell.n += k`."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Histogram:
    """Observations counted by bucket; one writer."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        """The sum of what was observed, in the unit of the metric."""

    def observe(self, value: float) -> None:
        """Count one observation, clamped to 0 .. 10 years: a record's timestamp may be anything."""
        if not 0.0 <= value <= MAXIMUM:
            value = MAXIMUM if value > MAXIMUM else 0.0  # NaN too: one would poison the sum for ever
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_many(self, values: Iterable[float]) -> None:
        """Count each of `values`."""
        observe = self.observe
        for value in values:
            observe(value)

    def cumulated(self) -> list[tuple[str, int]]:
        """(upper bound, observations up to it) of every bucket, as Prometheus wants them."""
        bounds = (*map(floatToGoString, self._bounds), "+Inf")
        return list(zip(bounds, accumulate(self._counts.copy()), strict=True))


class Metrics:
    """The numbers of one worker process.

    `tasks` and `topics` are the names that may be label values; every counter over known values exists from the
    start, so that its first increment is seen as one. Raises ValueError for a metric or labels not in the table.
    """

    def __init__(self, tasks: Iterable[str], topics: Iterable[str]) -> None:
        self._known: dict[str, dict[str, None]] = {label: dict.fromkeys(values) for label, values in _CLOSED.items()}
        self._known["task"] = dict.fromkeys((*tasks, UNKNOWN))
        self._known["topic"] = dict.fromkeys((*topics, UNKNOWN))
        self._cells: dict[str, dict[Labels, Cell]] = {s.name: {} for s in _ROWS if s.kind == "counter"}
        self._histograms: dict[str, dict[Labels, Histogram]] = {s.name: {} for s in _ROWS if s.kind == "histogram"}
        self._readers: dict[str, Callable[[], Reading]] = {}
        self._complained: set[str] = set()
        self._process = ProcessCollector(registry=None)
        for name in self._cells:
            self._start_at_zero(METRICS[name], self._known)

    def know_topic(self, name: str) -> None:
        """Make a topic's name a label value: called when a partition of it was assigned."""
        if name in self._known["topic"]:
            return
        self._known["topic"][name] = None
        for counter in self._cells:
            if "topic" in METRICS[counter].labels:
                self._start_at_zero(METRICS[counter], {**self._known, "topic": (name,)})

    def counter(self, name: str, *labels: str) -> Cell:
        """The cell of one series, to be bound once by the thread that counts."""
        spec = _spec(name, "counter")
        return self._cells[name].setdefault(self._series(spec, labels), Cell())

    def count(self, name: str, *labels: str, n: int = 1) -> None:
        """Add `n` to one series of a counter."""
        self.counter(name, *labels).n += n

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram of one series, to be bound once by the thread that observes."""
        spec = _spec(name, "histogram")
        return self._histograms[name].setdefault(self._series(spec, labels), Histogram(spec.buckets))

    def gauge(self, name: str, read: Callable[[], Reading]) -> None:
        """Show what `read` returns. It is called for every page, in the thread that makes it."""
        self._readers[_spec(name, "gauge").name] = read

    def counted(self, name: str, read: Callable[[], Reading]) -> None:
        """Show a counter that is kept elsewhere: like `gauge`, of numbers that never fall; what it leaves out is 0."""
        self._readers[_spec(name, "counter").name] = read

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, for an HTTP Accept header: Prometheus text unless OpenMetrics is accepted."""
        # Decided here: the library's own chooser copies the header's version into the answer, CR and LF included.
        if "application/openmetrics-text" in accept:
            body: bytes = openmetrics.generate_latest(self)  # type: ignore[no-untyped-call]  # untyped in the library
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Every metric that has something to show, then the process's own (prometheus_client's Collector protocol)."""
        for spec in _ROWS:
            if spec.kind == "histogram":
                yield self._histogram_family(spec)
            elif (values := self._values(spec)) is not None:
                kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
                family = kind(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
                for labels, value in values.items():
                    family.add_metric(labels, value)
                yield family
        yield from self._process.collect()

    def _histogram_family(self, spec: MetricSpec) -> Metric:
        family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
        # copy(): one step under the GIL, so a series may be added by its writer meanwhile; also below.
        for labels, histogram in self._histograms[spec.name].copy().items():
            family.add_metric(labels, histogram.cumulated(), histogram.sum)
        return family

    def _values(self, spec: MetricSpec) -> dict[Labels, float] | None:
        cells = self._cells.get(spec.name, {})
        values: dict[Labels, float] = {labels: cell.n for labels, cell in cells.copy().items()}
        read = self._readers.get(spec.name)
        if read is None:
            return values if spec.kind == "counter" else None
        try:
            return values | self._merged(spec, read())
        except Exception:
            if spec.name not in self._complained:
                self._complained.add(spec.name)
                _log.warning("metric %s is left out of the page: it cannot be read", spec.name, exc_info=True)
            return None

    def _merged(self, spec: MetricSpec, reading: Reading) -> dict[Labels, float]:
        merge = _MERGE[spec.merge]
        values: dict[Labels, float] = {}
        for labels, value in (dict(reading) if isinstance(reading, Mapping) else {(): reading}).items():
            series = self._series(spec, labels)  # several unknown names become one series
            values[series] = merge(values[series], float(value)) if series in values else float(value)
        return values

    def _series(self, spec: MetricSpec, labels: Labels) -> Labels:
        if len(labels) != len(spec.labels):
            raise ValueError(f"{spec.name} has the labels {spec.labels}, not {len(labels)} of them")
        return tuple(
            value if (known := self._known.get(label)) is None or value in known else UNKNOWN
            for label, value in zip(spec.labels, labels, strict=True)
        )

    def _start_at_zero(self, spec: MetricSpec, known: Mapping[str, Iterable[str]]) -> None:
        cells = self._cells[spec.name]
        for labels in product(*(known[label] for label in spec.labels)):
            cells.setdefault(labels, Cell())


def _spec(name: str, kind: str) -> MetricSpec:
    spec = METRICS.get(name)
    if spec is None or spec.kind != kind:
        raise ValueError(f"{name} is not a {kind} in the table of metrics")
    return spec
