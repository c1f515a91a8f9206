"""The backlog exporter: what groups have not finished, read from the broker again and again, as metrics and JSON.

One small process for a cluster. It joins no group and needs no worker, so it can tell an autoscaler to start the first
one. Owns the latest sample of each group; one thread reads, pages show.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaException
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from kworker.config import Config
from kworker.core.backlog import Backlog
from kworker.core.delayed import retry_topic
from kworker.kafka.backlogs import Backlogs
from kworker.kafka.settings import admin_settings, consumer_settings

log = logging.getLogger(__name__)

_REMEMBERED = 8  # samples, over which the speed of a group is told
_MISSED, _OLD = 3, 30.0  # a sample is too old after so many intervals, and not before so many seconds


class TopicBacklog(Struct, frozen=True):
    """One topic of a group. oldest: age of its oldest unfinished record in seconds; None when there is none."""

    topic: str
    unfinished: int
    oldest: float | None


class GroupBacklog(Struct, frozen=True):
    """What a group has left. drain: seconds until it is done at its speed of late; None while nothing finishes."""

    group: str
    unfinished: int
    oldest: float | None
    drain: float | None
    read_at: float
    topics: list[TopicBacklog]


class Exporter:
    """See the module. groups: the topics of each, beside those it has committed. interval: seconds between readings."""

    def __init__(self, config: Config, groups: Mapping[str, Collection[str]], interval: float) -> None:
        self._config = config
        self._groups = groups
        self._interval = interval
        self._backlogs = Backlogs(admin_settings(config), {**consumer_settings(config), "group.id": "kworker-backlog"})
        self._samples: dict[str, GroupBacklog] = {}
        self._history: dict[str, deque[tuple[float, int]]] = {name: deque(maxlen=_REMEMBERED) for name in groups}
        self._errors = dict.fromkeys(groups, 0)
        self._stop = threading.Event()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def run(self) -> None:
        """Read until `stop`; what cannot be read is logged and tried again."""
        while not self._stop.is_set():
            began = time.monotonic()
            for group in self._groups:
                self._read(group)
            self._stop.wait(max(0.1, self._interval - (time.monotonic() - began)))
        self._backlogs.close()

    def stop(self) -> None:
        """End `run` after the reading that is under way."""
        self._stop.set()

    def _read(self, group: str) -> None:
        topics, retries = self._groups[group], retry_topic(self._config.namespace, group)
        try:
            backlogs = self._backlogs.read(group, lambda topic: topic == retries or topic in topics)
            ages = self._backlogs.oldest(backlogs)
        except (KafkaException, TimeoutError) as error:
            self._errors[group] += 1
            log.warning("the backlog cannot be read", extra={"group": group, "why": self._backlogs.why(error)})
            return
        now = time.time()
        finished = sum(one.end - one.unfinished for one in backlogs)
        history = self._history[group]
        if history and finished < history[-1][1]:  # a topic made anew, or offsets set back: its speed is unknown
            history.clear()
        history.append((now, finished))
        by_topic: dict[str, list[Backlog]] = {topic: [] for topic in sorted(topics)}
        for one in backlogs:
            by_topic.setdefault(one.place.topic, []).append(one)
        rows = [
            TopicBacklog(
                topic,
                sum(one.unfinished for one in found),
                _age([ages[one.place] for one in found if one.place in ages], now),
            )
            for topic, found in by_topic.items()
        ]
        unfinished = sum(row.unfinished for row in rows)
        self._samples[group] = GroupBacklog(
            group, unfinished, _age(list(ages.values()), now), _drain(history, unfinished), now, rows
        )

    # -- pages: any thread ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`unfinished` of all groups, and each group; one that was not read of late is left out."""
        groups = self._fresh()
        return {"unfinished": sum(one.unfinished for one in groups), "groups": groups, "ready": self.ready()}

    def ready(self) -> list[str]:
        """Groups without a reading of late."""
        fresh = {sample.group for sample in self._fresh()}
        return [f"group {group}: no reading of its backlog of late" for group in self._groups if group not in fresh]

    def _fresh(self) -> list[GroupBacklog]:
        """The samples that are not too old: an autoscaler must not take an old number for a new one."""
        oldest = time.time() - max(_MISSED * self._interval, _OLD)
        return [sample for sample in self._samples.copy().values() if sample.read_at >= oldest]

    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics page and its content type; always Prometheus text."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """The metrics (prometheus_client's Collector protocol)."""
        samples = self._fresh()
        rows = [(sample, row) for sample in samples for row in sample.topics]
        yield _gauge(
            "kworker_backlog_tasks",
            "Records of a topic that a group has not finished.",
            ("group", "topic"),
            (((sample.group, row.topic), row.unfinished) for sample, row in rows),
        )
        yield _gauge(
            "kworker_backlog_oldest_seconds",
            "Age of the oldest record of a topic that a group has not finished; 0 when there is none.",
            ("group", "topic"),
            (((sample.group, row.topic), row.oldest or 0.0) for sample, row in rows),
        )
        yield _gauge(
            "kworker_backlog_drain_seconds",
            "Seconds until a group is done at its speed of late; left out while it finishes nothing.",
            ("group",),
            (((sample.group,), sample.drain) for sample in samples if sample.drain is not None),
        )
        yield _gauge(
            "kworker_backlog_read_timestamp_seconds",
            "When the backlog of a group was last read.",
            ("group",),
            (((sample.group,), sample.read_at) for sample in samples),
        )
        errors = CounterMetricFamily(
            "kworker_backlog_errors", "Times the backlog of a group could not be read.", labels=("group",)
        )
        for group, count in self._errors.copy().items():
            errors.add_metric((group,), count)
        yield errors


def _gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _age(times: list[float], now: float) -> float | None:
    return max(0.0, round(now - min(times), 3)) if times else None


def _drain(history: deque[tuple[float, int]], unfinished: int) -> float | None:
    if not unfinished:
        return 0.0
    (first, before), (last, after) = history[0], history[-1]
    return round(unfinished * (last - first) / (after - before), 1) if after > before and last > first else None
