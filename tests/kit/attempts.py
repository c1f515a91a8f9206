"""Entries to hand to an executor, as the engine makes them from records, and what comes back of them."""

from __future__ import annotations

from typing import Any

from kworker.core.entry import Entry
from kworker.core.events import Finished
from kworker.core.metadata import Intervals
from kworker.core.partition import Partition
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.mailbox import Mailbox, Report
from kworker.task import Task, TopicPartition


def partition(number: int = 0, topic: str = "tasks") -> Partition:
    """A partition that was just assigned."""
    return Partition(TopicPartition(topic, number), 1, 0, Intervals(), None, f"{topic}.dlq")


def entry_of(
    task: str,
    value: bytes | None = None,
    *,
    of: Partition | None = None,
    attempt: int = 1,
    run: int = 1,
    until: float | None = None,
    **given: Any,
) -> Entry:
    """One record of `task`, handed out for its run number `run`.

    of: its partition; a new one unless given. until: its ce_deadline. given: further parts of its Task.
    """
    place = of or partition()
    parts: dict[str, Any] = {
        "topic": place.topic_partition.topic,
        "partition": place.topic_partition.partition,
        "offset": 0,
        "key": None,
        "headers": [],
        "timestamp": 0,
        "deadline": until,
        **given,
    }
    entry = Entry(Task(name=task, value=value, **parts), place, Route(task, "thread", RetryPolicy()), 0.0)
    entry.run, entry.attempt = run, attempt
    return entry


def reported(mailbox: Mailbox, timeout: float) -> list[Report]:
    """What slots have reported; waits up to `timeout` seconds for the first."""
    reports: list[Report] = []
    for event in mailbox.take(timeout):
        assert isinstance(event, Finished), event
        reports += event.reports
    return reports
