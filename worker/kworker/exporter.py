"""The backlog exporter: what groups have not finished, read from the broker again and again, as metrics and JSON.

One small process for a cluster. It joins no group and needs no worker, so it can tell an autoscaler to start the first
one. Owns the latest sample of each group; one thread reads, pages show. A delayed task that is due is unfinished of
each group that reads its target; the delay log is followed, so that a reading costs what changed since the last. While
that cannot be read, the topics are told without it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaException
from msgspec import Struct, structs
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from kworker.config import Config
from kworker.core.backlog import Backlog
from kworker.core.delayed import log_of, retry_topic
from kworker.core.pace import Pace
from kworker.kafka.backlogs import Backlogs
from kworker.kafka.settings import admin_settings, consumer_settings
from kworker.task import TopicPartition
from kworker.timekeeper.following import Follower, Waiting, of_group

log = logging.getLogger(__name__)

_MISSED, _OLD = 3, 30.0  # a sample is too old after so many intervals, and not before so many seconds


class TopicBacklog(Struct, frozen=True):
    """One topic of a group. oldest: age of the oldest that is unfinished, in seconds: since its record was written, or
    since it was due; None when there is none. due: how many of the unfinished are delayed tasks whose time has come,
    and that nobody handed over yet. delayed: tasks whose time has not come, which are not unfinished; next_due: in how
    many seconds it comes for the first of them. Of a delay log that could not be read these are None."""

    topic: str
    unfinished: int
    oldest: float | None
    due: int | None
    delayed: int | None
    next_due: float | None


class GroupBacklog(Struct, frozen=True):
    """What a group has left. drain: seconds until it is done at its speed of late; None while nothing finishes."""

    group: str
    unfinished: int
    oldest: float | None
    drain: float | None
    read_at: float
    topics: list[TopicBacklog]


class Exporter:
    """See the module. groups: the topics of each, and regular expressions as a worker takes them, beside those it has
    committed. interval: seconds between readings."""

    def __init__(self, config: Config, groups: Mapping[str, Collection[str]], interval: float) -> None:
        self._config = config
        self._groups = {name: replace(config, group=name, topics=tuple(topics)) for name, topics in groups.items()}
        self._interval = interval
        self._backlogs = Backlogs(admin_settings(config), {**consumer_settings(config), "group.id": "kworker-backlog"})
        self._follower = Follower(log_of(config.namespace), consumer_settings(config), self._backlogs.topic)
        self._samples: dict[str, GroupBacklog] = {}
        self._paces = {name: Pace() for name in groups}
        self._errors = dict.fromkeys(groups, 0)
        self._blind: str | None = None
        """Why the delay log could not be read the last time."""
        self._stop = threading.Event()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def run(self) -> None:
        """Read until `stop`; what cannot be read is logged and tried again."""
        while not self._stop.is_set():
            began = time.monotonic()
            self._read_all()
            self._stop.wait(max(0.1, self._interval - (time.monotonic() - began)))
        self._follower.close()
        self._backlogs.close()

    def stop(self) -> None:
        """End `run` after the reading that is under way."""
        self._stop.set()

    def _read_all(self) -> None:
        # Order: what is handed over between the two readings is counted twice, and never not at all.
        waiting = self._waiting()
        for group in self._groups:
            try:
                self._read(group, waiting)
                self._errors[group] += waiting is None
            except (KafkaException, TimeoutError) as error:
                self._errors[group] += 1
                log.warning("the backlog cannot be read", extra={"group": group, "why": self._backlogs.why(error)})

    def _waiting(self) -> list[Waiting] | None:
        """What waits in the delay log; None when it cannot be read: why, is told once."""
        try:
            waiting = self._follower.read()
        except (KafkaException, sqlite3.Error, OSError) as error:
            why = self._backlogs.why(error)
            if why != self._blind:
                log.warning("the delay log cannot be read: what is due there is not told", extra={"why": why})
            self._blind = why
            return None
        self._blind = None
        return waiting

    def _read(self, group: str, waiting: Iterable[Waiting] | None) -> None:
        config, retries = self._groups[group], retry_topic(self._config.namespace, group)

        def takes(topic: str) -> bool:
            return topic == retries or config.takes(topic)

        backlogs = self._backlogs.read(group, takes)
        ages = self._backlogs.oldest(backlogs)
        now = time.time()
        self._paces[group].sample(now, backlogs)
        delayed = {one.topic: one for one in of_group(waiting or (), backlogs, takes)}
        by_topic: dict[str, list[Backlog]] = {topic: [] for topic in sorted({*config.named_topics, *delayed})}
        for one in backlogs:
            by_topic.setdefault(one.place.topic, []).append(one)
        rows = [_topic(topic, found, delayed.get(topic), ages, now) for topic, found in by_topic.items()]
        if waiting is None:
            rows = [structs.replace(row, due=None, delayed=None) for row in rows]
        unfinished = sum(row.unfinished for row in rows)
        oldest = max((row.oldest for row in rows if row.oldest is not None), default=None)
        drain = self._paces[group].drain(unfinished)
        self._samples[group] = GroupBacklog(group, unfinished, oldest, drain, now, rows)

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
            "Tasks of a topic that a group has not finished: its records, and delayed tasks that are due.",
            ("group", "topic"),
            (((sample.group, row.topic), row.unfinished) for sample, row in rows),
        )
        yield _gauge(
            "kworker_backlog_oldest_seconds",
            "Age of the oldest task of a topic that a group has not finished; 0 when there is none.",
            ("group", "topic"),
            (((sample.group, row.topic), row.oldest or 0.0) for sample, row in rows),
        )
        yield _gauge(
            "kworker_backlog_due_tasks",
            "Of the unfinished: delayed tasks for a topic that are due, and that nobody handed over yet.",
            ("group", "topic"),
            (((sample.group, row.topic), row.due) for sample, row in rows if row.due is not None),
        )
        yield _gauge(
            "kworker_backlog_delayed_tasks",
            "Delayed tasks for a topic that are not due yet, and not unfinished.",
            ("group", "topic"),
            (((sample.group, row.topic), row.delayed) for sample, row in rows if row.delayed is not None),
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
            "kworker_backlog_errors",
            "Times the backlog of a group could not be read, or only without what is delayed.",
            labels=("group",),
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


def _topic(
    topic: str,
    backlogs: Iterable[Backlog],
    delayed: Waiting | None,
    ages: Mapping[TopicPartition, float],
    now: float,
) -> TopicBacklog:
    one = delayed or Waiting(topic, 0, None, 0, None)
    times = [ages[found.place] for found in backlogs if found.place in ages]
    times += [one.since] if one.since is not None else []
    return TopicBacklog(
        topic,
        sum(found.unfinished for found in backlogs) + one.due,
        max(0.0, round(now - min(times), 3)) if times else None,
        one.due,
        one.delayed,
        None if one.next is None else max(0.0, round(one.next - now, 3)),
    )
