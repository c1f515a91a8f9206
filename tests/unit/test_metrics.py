"""The page of metrics: what is counted is what is scraped, whatever the names, readers and threads do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kworker.metric_table import METRICS
from kworker.metrics import UNKNOWN, Cell, Histogram, Metrics
from kworker.task import Reason

CONTRACT = {
    "kworker_tasks_received_total": ("topic",),
    "kworker_tasks_succeeded_total": ("task",),
    "kworker_tasks_failed_total": ("task", "error"),
    "kworker_tasks_retried_total": ("task",),
    "kworker_tasks_postponed_total": ("task",),
    "kworker_tasks_dead_lettered_total": ("task", "reason"),
    "kworker_task_duration_seconds": ("task",),
    "kworker_task_wait_seconds": ("task",),
    "kworker_tasks_in_flight": (),
    "kworker_slots": ("executor",),
    "kworker_slots_busy": ("executor",),
    "kworker_consumer_lag": ("topic", "partition"),
    "kworker_committed_offset": ("topic", "partition"),
    "kworker_completion_gap": ("topic", "partition"),
    "kworker_oldest_unfinished_seconds": (),
    "kworker_rebalances_total": ("event",),
    "kworker_paused_partitions": (),
    "kworker_tasks_abandoned_total": (),
    "kworker_commits_total": ("result",),
    "kworker_last_poll_timestamp_seconds": (),
    "kworker_delayed_tasks": (),
    "kworker_build_info": ("version", "python", "librdkafka"),
    "kworker_group_info": ("group",),
}
Series = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["resize", "mail"], ["tasks"])


def scrape(metrics: Metrics) -> dict[Series, float]:
    """Every sample of the page by name and labels, read by prometheus_client's own parser."""
    page = metrics.page("text/plain")[0].decode()
    found: dict[Series, float] = {}
    for family in parse_text(page):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"series twice in one page: {key}"
            found[key] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return scrape(metrics).get((name, frozenset(labels.items())))


def set_every_gauge(metrics: Metrics) -> None:
    for spec in METRICS.values():
        if spec.kind == "gauge":
            labels = tuple("0" for _ in spec.labels)
            metrics.gauge(spec.name, lambda labels=labels: {labels: 1.0})  # type: ignore[misc]  # a bound default
        elif spec.kind == "histogram":
            metrics.histogram(spec.name, *("resize" for _ in spec.labels)).observe(0.2)


def test_the_table_holds_the_contract() -> None:
    table = {name: spec.labels for name, spec in METRICS.items()}
    assert {name: table.get(name) for name in CONTRACT} == CONTRACT


def test_the_table_keeps_the_naming_rules_of_prometheus() -> None:
    for spec in METRICS.values():
        assert spec.name.startswith("kworker_")
        assert spec.help.endswith(".")
        assert spec.help[0].isupper()
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert spec.unit in ("", "seconds", "bytes")
        assert spec.name.endswith("_seconds") == (spec.unit == "seconds"), spec.name
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert list(spec.buckets) == sorted(set(spec.buckets))
        assert spec.merge in ("sum", "max", "min", "last")
        if spec.kind != "gauge":
            assert spec.merge == "sum"


def test_counters_over_known_names_start_at_zero_and_the_bound_cell_is_the_counted_one(metrics: Metrics) -> None:
    for reason in Reason:
        assert value(metrics, "kworker_tasks_dead_lettered_total", task="mail", reason=reason.value) == 0
    cell = metrics.counter("kworker_tasks_succeeded_total", "mail")
    cell.n += 3
    metrics.count("kworker_tasks_succeeded_total", "mail")
    metrics.count("kworker_tasks_succeeded_total", "mail", n=5)
    metrics.count("kworker_tasks_dead_lettered_total", "mail", Reason.TIMED_OUT)
    metrics.count("kworker_tasks_abandoned_total")
    assert value(metrics, "kworker_tasks_succeeded_total", task="mail") == 9
    assert value(metrics, "kworker_tasks_succeeded_total", task="resize") == 0
    assert value(metrics, "kworker_tasks_dead_lettered_total", task="mail", reason="timed-out") == 1
    assert value(metrics, "kworker_tasks_abandoned_total") == 1


def test_metrics_under_a_million_names(metrics: Metrics) -> None:
    """FAULTS.md, bad input 40 (here 20,000: the rest would only take time)."""
    before = len(scrape(metrics))
    metrics.histogram("kworker_task_duration_seconds", "mail")
    with_histogram = len(scrape(metrics))
    for number in range(20_000):
        metrics.count("kworker_tasks_failed_total", f"no-such-{number}", "exception")
        metrics.count("kworker_tasks_received_total", f"no-such-{number}")
        metrics.histogram("kworker_task_duration_seconds", f"no-such-{number}").observe(1)
    metrics.count("kworker_tasks_failed_total", "mail", "KeyError: 'secret'")
    one_histogram = with_histogram - before
    assert len(scrape(metrics)) == with_histogram + one_histogram + 1
    assert value(metrics, "kworker_tasks_failed_total", task=UNKNOWN, error="exception") == 20_000
    assert value(metrics, "kworker_tasks_received_total", topic=UNKNOWN) == 20_000
    assert value(metrics, "kworker_task_duration_seconds_count", task=UNKNOWN) == 20_000
    assert value(metrics, "kworker_tasks_failed_total", task="mail", error=UNKNOWN) == 1


def test_a_topic_is_a_label_once_it_is_known(metrics: Metrics) -> None:
    metrics.count("kworker_tasks_received_total", "orders-1")
    metrics.know_topic("orders-1")
    assert value(metrics, "kworker_tasks_received_total", topic="orders-1") == 0
    metrics.count("kworker_tasks_received_total", "orders-1")
    metrics.know_topic("orders-1")
    assert value(metrics, "kworker_tasks_received_total", topic="orders-1") == 1
    assert value(metrics, "kworker_tasks_received_total", topic=UNKNOWN) == 1


@pytest.mark.parametrize("name", ["kworker_no_such_total", "kworker_slots", "kworker_task_wait_seconds"])
def test_what_is_not_a_counter_in_the_table_cannot_be_counted(metrics: Metrics, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a counter"):
        metrics.count(name)
    with pytest.raises(ValueError, match=f"{name} is not a counter"):
        metrics.counted(name, lambda: 1.0)


@pytest.mark.parametrize("labels", [(), ("mail", "exception", "more")])
def test_a_wrong_number_of_labels_is_refused(metrics: Metrics, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="kworker_tasks_failed_total has the labels"):
        metrics.count("kworker_tasks_failed_total", *labels)


def test_histogram_buckets_include_their_bound_and_add_up() -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    histogram.observe(0.1)
    histogram.observe_many([0.5, 1.0, 10.0, 11.0, 0.0])
    assert histogram.values()[:-1] == [2, 2, 1, 1]
    assert histogram.sum == pytest.approx(22.6)


@pytest.mark.parametrize("value", [-1.0, -math.inf, math.nan])
def test_an_impossible_observation_counts_as_zero(value: float) -> None:
    histogram = Histogram((0.1,))
    histogram.observe(value)
    assert histogram.values()[:-1] == [1, 0]
    assert histogram.sum == 0


@pytest.mark.parametrize("value", [math.inf, 1e30])
def test_an_endless_observation_leaves_the_sum_finite(value: float) -> None:
    histogram = Histogram((0.1,))
    histogram.observe(value)
    assert histogram.values()[:-1] == [0, 1]
    assert histogram.sum == 10 * 366 * 86400


def test_histograms_are_scraped_with_their_buckets(metrics: Metrics) -> None:
    metrics.histogram("kworker_task_wait_seconds", "mail").observe(90_000)
    metrics.histogram("kworker_task_wait_seconds", "mail").observe(0.005)
    assert value(metrics, "kworker_task_wait_seconds_bucket", task="mail", le="0.005") == 1
    assert value(metrics, "kworker_task_wait_seconds_bucket", task="mail", le="86400.0") == 1
    assert value(metrics, "kworker_task_wait_seconds_bucket", task="mail", le="+Inf") == 2
    assert value(metrics, "kworker_task_wait_seconds_count", task="mail") == 2
    assert value(metrics, "kworker_task_wait_seconds_sum", task="mail") == 90_000.005


def test_gauges_are_read_for_each_page_and_absent_without_a_reader(metrics: Metrics) -> None:
    assert value(metrics, "kworker_tasks_in_flight") is None
    level = [1]
    metrics.gauge("kworker_tasks_in_flight", lambda: level[0])
    assert value(metrics, "kworker_tasks_in_flight") == 1
    level[0] = 7
    assert value(metrics, "kworker_tasks_in_flight") == 7
    offsets: dict[tuple[str, ...], float] = {("tasks", "0"): 2**53 - 1, ("tasks", "1"): 0}
    metrics.gauge("kworker_committed_offset", lambda: offsets)
    assert value(metrics, "kworker_committed_offset", topic="tasks", partition="0") == 2**53 - 1
    assert value(metrics, "kworker_committed_offset", topic="tasks", partition="1") == 0


def test_a_counter_kept_elsewhere_is_shown_over_the_zeros(metrics: Metrics) -> None:
    metrics.counted("kworker_log_lines_dropped_total", lambda: 12)
    assert value(metrics, "kworker_log_lines_dropped_total") == 12
    metrics.counted("kworker_tasks_failed_total", lambda: {("mail", "timeout"): 3})
    assert value(metrics, "kworker_tasks_failed_total", task="mail", error="timeout") == 3
    assert value(metrics, "kworker_tasks_failed_total", task="mail", error="crash") == 0


@pytest.mark.parametrize(("name", "expected"), [("kworker_consumer_lag", 5), ("kworker_slots", 8)])
def test_unknown_names_of_a_reader_become_one_series_by_the_merge_rule(
    metrics: Metrics, name: str, expected: int
) -> None:
    rest = ("0",) * (len(METRICS[name].labels) - 1)
    metrics.gauge(name, lambda: {("a", *rest): 5, ("b", *rest): 3})
    found = [number for (series, _), number in scrape(metrics).items() if series == name]
    assert found == [expected]


def broken_reader() -> float:
    raise RuntimeError("no such state")


@pytest.mark.parametrize(
    "read",
    [broken_reader, lambda: None, lambda: "many", lambda: {("tasks",): 1.0}, lambda: {("tasks", "0"): None}],
    ids=["raises", "none", "text", "labels", "none in a mapping"],
)
def test_a_reader_that_fails_is_left_out_and_logged_once(
    metrics: Metrics, read: object, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.gauge("kworker_consumer_lag", read)  # type: ignore[arg-type]  # what a faulty reader would do
    metrics.gauge("kworker_tasks_in_flight", lambda: 4)
    with caplog.at_level(logging.WARNING):
        pages = [scrape(metrics) for _ in range(3)]
    for page in pages:
        assert not [name for name, _ in page if name == "kworker_consumer_lag"]
        assert page[("kworker_tasks_in_flight", frozenset())] == 4
    assert [r.getMessage() for r in caplog.records] == [
        "metric kworker_consumer_lag is left out of the page: it cannot be read"
    ]


def test_label_values_are_escaped() -> None:
    name = 'a"b\\c\nd}e 1.0\r\x1b{<script>\u2603'
    metrics = Metrics([name], [])
    metrics.count("kworker_tasks_succeeded_total", name, n=2)
    assert b'task="a\\"b\\\\c\\nd}e 1.0' in metrics.page("")[0]
    assert value(metrics, "kworker_tasks_succeeded_total", task=name) == 2


def test_the_page_in_both_formats_says_the_same(metrics: Metrics) -> None:
    set_every_gauge(metrics)
    text, text_type = metrics.page("text/plain;q=0.5,*/*;q=0.1")
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3"
    open_text, open_type = metrics.page(accept)
    assert text_type == "text/plain; version=0.0.4; charset=utf-8"
    assert open_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert open_text.endswith(b"# EOF\n")

    def ours(families: object) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (s.name, frozenset(s.labels.items())): s.value
            for family in families  # type: ignore[attr-defined]  # the parsers are untyped
            for s in family.samples
            if s.name.startswith("kworker_")
        }

    assert ours(parse_text(text.decode())) == ours(
        parse_open_metrics(open_text.decode())  # type: ignore[no-untyped-call]  # untyped in the library
    )


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=2.0\r\n X: y", "application/openmetrics-text;version=1.0.x"]
)
def test_nothing_of_the_accept_header_comes_back(metrics: Metrics, accept: str) -> None:
    assert metrics.page(accept)[1] == "application/openmetrics-text; version=1.0.0; charset=utf-8"


def test_every_metric_is_on_the_page_with_help_and_type(metrics: Metrics) -> None:
    set_every_gauge(metrics)
    lines = metrics.page("")[0].decode().splitlines()
    for spec in METRICS.values():
        assert f"# HELP {spec.name} {spec.help}" in lines
        assert f"# TYPE {spec.name} {spec.kind}" in lines
        assert any(line.startswith((f"{spec.name} ", f"{spec.name}{{", f"{spec.name}_bucket{{")) for line in lines)
    names = {name for name, _ in scrape(metrics)}
    assert "process_cpu_seconds_total" in names
    assert not any(name.startswith("python_") for name in names)


def test_series_added_while_a_page_is_made_do_not_break_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another thread may do at any moment, done at the worst one: while each dict is being read."""
    names = [f"{where}-{number}" for where in ("cell", "histogram", "gauge") for number in range(3)]
    left = list(names)
    lag: dict[tuple[str, ...], float] = {}

    def grow(where: str) -> None:
        for name in [name for name in left if name.startswith(where)][:1]:
            left.remove(name)
            growing.know_topic(name)
            growing.histogram("kworker_task_duration_seconds", name)
            lag[(name, "0")] = 1.0

    class GrowingCell(Cell):
        __slots__ = ()

        @property
        def n(self) -> int:
            grow("cell")
            return 1

        @n.setter
        def n(self, value: int) -> None:
            pass

    class GrowingHistogram(Histogram):
        __slots__ = ()

        def values(self) -> list[float]:
            grow("histogram")
            return super().values()

    class GrowingFloat(float):
        def __float__(self) -> float:
            grow("gauge")
            return 1.0

    monkeypatch.setattr("kworker.metrics.Cell", GrowingCell)
    monkeypatch.setattr("kworker.metrics.Histogram", GrowingHistogram)
    growing = Metrics([*names, "first"], ["tasks"])
    growing.histogram("kworker_task_duration_seconds", "first")
    lag.update({("tasks", str(number)): GrowingFloat() for number in range(3)})
    growing.gauge("kworker_consumer_lag", lambda: lag)
    for _ in range(3):
        scrape(growing)
    assert (left, caplog.records) == ([], [])
    page = scrape(growing)
    for name in names:
        assert page[("kworker_tasks_received_total", frozenset({("topic", name)}))] == 1
        assert page[("kworker_task_duration_seconds_count", frozenset({("task", name)}))] == 0
        assert page[("kworker_consumer_lag", frozenset({("topic", name), ("partition", "0")}))] == 1
