"""The plain numbers behind the metrics (metric_table.py), how those of several processes add up, and their page.

Owns the counters, histograms and gauge readers of one worker process.
Promises: counting touches one plain number and no lock; prometheus_client is called only while a page is made, in
the thread that asks for it. Each `Cell` and `Histogram` has ONE writing thread (two would lose counts); any thread
may read. A label value is a known name or one of a closed set, else `_unknown`: no message can add a series. A gauge
that cannot be read is left out and logged once; it never breaks the page.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from kworker.bulletin import Labels, Snapshot
from kworker.duration import MAXIMUM
from kworker.metric_table import METRICS, PROCESS_METRICS, MetricSpec
from kworker.task import Reason

Reading = float | Mapping[Labels, float]
"""What a reader returns: one number, or one a series."""

UNKNOWN = "_unknown"
"""The label value that stands for every name which is not known here."""

_FEW = 8  # values: below it, looking for each one's bucket takes less time than looking for the end of each bucket
_log = logging.getLogger(__name__)

_CLOSED: dict[str, Sequence[str]] = {
    "error": ("exception", "timeout", "crash", "rejected"),
    "event": ("assigned", "revoked", "lost"),
    "executor": ("thread", "process", "coroutine"),
    "outcome": ("handed-over", "cancelled", "set-aside"),
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

_SHOWN: Mapping[str, MetricSpec] = METRICS | {row.name: row for row in PROCESS_METRICS}
_PROCESS = ProcessCollector(registry=None)


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
        """Count each of `values`: of many, all at once in one bucket, or by their order, a tenth of the work."""
        values = list(values)
        total = sum(values)
        if len(values) < _FEW or total != total or not (min(values) >= 0.0 and max(values) <= MAXIMUM):  # != is NaN
            for value in values:
                self.observe(value)
            return
        place = bisect_left(self._bounds, min(values))
        if place == bisect_left(self._bounds, max(values)):
            self._counts[place] += len(values)
            self.sum += total
            return
        ordered = sorted(values)
        below = 0
        for number, bound in enumerate(self._bounds):
            end = bisect_right(ordered, bound, below)
            self._counts[number] += end - below
            below = end
        self._counts[-1] += len(ordered) - below
        self.sum += total

    def values(self) -> list[float]:
        """How many in each bucket, then the sum: as a Snapshot holds it."""
        return [*map(float, self._counts.copy()), self.sum]


class Metrics:
    """The numbers of one worker process.

    `tasks` and `topics` are the names that may be label values; every counter over known values exists from the
    start, so that its first increment is seen as one. Raises ValueError for a metric or labels not in the table.
    """

    def __init__(self, tasks: Iterable[str], topics: Iterable[str]) -> None:
        self._known: dict[str, dict[str, None]] = {label: dict.fromkeys(values) for label, values in _CLOSED.items()}
        self._known["task"] = dict.fromkeys((*tasks, UNKNOWN))
        self._known["topic"] = dict.fromkeys((*topics, UNKNOWN))
        self._cells: dict[str, dict[Labels, Cell]] = {s.name: {} for s in METRICS.values() if s.kind == "counter"}
        self._histograms: dict[str, dict[Labels, Histogram]] = {
            s.name: {} for s in METRICS.values() if s.kind == "histogram"
        }
        self._readers: dict[str, Callable[[], Reading]] = {}
        self._complained: set[str] = set()
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
        """The page for an HTTP Accept header: see `page`."""
        return page(self.snapshot(), accept)

    def snapshot(self) -> Snapshot:
        """Every metric that has something to show, then the process's own."""
        # copy(): one step under the GIL, so a series may be added by its writer meanwhile; also below.
        histograms = {
            name: {labels: histogram.values() for labels, histogram in series.copy().items()}
            for name, series in self._histograms.items()
        }
        found = {spec.name: histograms.get(spec.name) or self._values(spec) for spec in METRICS.values()}
        return {name: values for name, values in found.items() if values is not None} | process_snapshot()

    def _values(self, spec: MetricSpec) -> dict[Labels, list[float]] | None:
        cells = self._cells.get(spec.name, {})
        values: dict[Labels, float] = {labels: cell.n for labels, cell in cells.copy().items()}
        read = self._readers.get(spec.name)
        if read is None and spec.kind != "counter":
            return {} if spec.kind == "histogram" else None
        try:
            values |= self._merged(spec, read()) if read is not None else {}
        except Exception:
            if spec.name not in self._complained:
                self._complained.add(spec.name)
                _log.warning("metric %s is left out of the page: it cannot be read", spec.name, exc_info=True)
            return None
        return {labels: [value] for labels, value in values.items()}

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


def process_snapshot() -> Snapshot:
    """What prometheus_client tells of this process."""
    samples = [sample for family in _PROCESS.collect() for sample in family.samples]
    return {sample.name: {(): [float(sample.value)]} for sample in samples if sample.name in _SHOWN}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The values of several processes as those of one, by the rules of the table: `last` is that of the last one."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, series in snapshot.items():
            rule, found = _MERGE[_SHOWN[name].merge], merged.setdefault(name, {})
            for labels, values in series.items():
                known = found.get(labels)
                found[labels] = [*map(rule, known, values)] if known is not None else values
    return merged


def lasting(snapshot: Snapshot) -> Snapshot:
    """What stays true when the process is gone: what it counted."""
    return {name: series for name, series in snapshot.items() if _SHOWN[name].kind != "gauge"}


def page(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The page and its content type, for an HTTP Accept header: Prometheus text unless OpenMetrics is accepted."""
    # Decided here: the library's own chooser copies the header's version into the answer, CR and LF included.
    if "application/openmetrics-text" in accept:
        body: bytes = openmetrics.generate_latest(_Families(snapshot))  # type: ignore[no-untyped-call]  # untyped there
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(_Families(snapshot)), CONTENT_TYPE_PLAIN_0_0_4


class _Families:
    """A snapshot as prometheus_client takes it (its Collector protocol)."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, spec in _SHOWN.items():
            if name in self._snapshot:
                yield _family(spec, self._snapshot[name])


def _family(spec: MetricSpec, series: Mapping[Labels, Sequence[float]]) -> Metric:
    if spec.kind == "histogram":
        family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
        bounds = (*map(floatToGoString, spec.buckets), "+Inf")
        for labels, (*counts, total) in series.items():
            family.add_metric(labels, list(zip(bounds, accumulate(map(int, counts)), strict=True)), total)
        return family
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    plain = kind(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
    for labels, (value,) in series.items():
        plain.add_metric(labels, value)
    return plain


def _spec(name: str, kind: str) -> MetricSpec:
    spec = METRICS.get(name)
    if spec is None or spec.kind != kind:
        raise ValueError(f"{name} is not a {kind} in the table of metrics")
    return spec
