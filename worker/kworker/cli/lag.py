"""`kworker lag`: what of a group's topics is not finished, with no worker running.

It reads and changes nothing: no group is joined, nothing is committed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec
from msgspec import Struct

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.core.backlog import Backlog
from kworker.core.delayed import log_of, retry_topic
from kworker.errors import ConfigError
from kworker.task import TopicPartition
from kworker.terminal import columns

if TYPE_CHECKING:
    from kworker.timekeeper.following import Waiting


class Lag(Struct, frozen=True):
    """One partition as it is printed. lag: the plain difference; unfinished: without what is done behind a gap.

    exact: unfinished records, counted; None without --exact. oldest: age of the first unfinished one, in seconds.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    unfinished: int
    exact: int | None
    oldest: float | None


class Delayed(Struct, frozen=True):
    """Delayed tasks for one topic. due: those whose time has come, and that nobody handed over yet; oldest: for how
    many seconds the first of them is due. delayed: the others; next_due: in how many seconds the first of them is."""

    topic: str
    due: int
    oldest: float | None
    delayed: int
    next_due: float | None


class _Found(NamedTuple):
    backlogs: list[Backlog]
    counts: Mapping[TopicPartition, int]
    ages: Mapping[TopicPartition, float]
    waiting: list[Waiting]


@click.command(epilog=SOURCES)
@click.option("--exact", is_flag=True, help="Count by reading the records: markers and compacted ones do not count.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document for machines.")
@config_options("group", "topic", "bootstrap", "namespace")
def lag(exact: bool, as_json: bool, **flags: Any) -> None:
    """Show what a group has not finished, by topic and partition; needs no worker.

    A record is finished when its offset is committed, or when the metadata of the commit says so: behind one slow
    task nearly all may be done. Delayed tasks, long retries and schedules that are due count as well. Topics: those the
    group has committed, and those of --topic.
    """
    from kworker.kafka.settings import faults

    config = Config.load(*sources(flags), vet=faults)
    backlogs, counts, ages, waiting = _ask(config, exact)
    now = time.time()
    rows = [
        Lag(
            one.place.topic,
            one.place.partition,
            one.committed,
            one.end,
            max(0, one.end - (one.start if one.committed is None else max(one.committed, 0))),
            one.unfinished,
            counts.get(one.place) if exact else None,
            _between(ages.get(one.place), now),
        )
        for one in backlogs
    ]
    delayed = [
        Delayed(one.topic, one.due, _between(one.since, now), one.delayed, one.next and _between(now, one.next))
        for one in waiting
    ]
    for one in backlogs:
        if not one.known:
            click.echo(f"kworker: {one.place}: the commit metadata is not kworker's: all above it counts", err=True)
    if as_json:
        document = {
            "group": config.group,
            "unfinished": _unfinished(rows, delayed),
            "partitions": rows,
            "delayed": delayed,
        }
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        _print(config, rows, delayed)


def _between(earlier: float | None, later: float) -> float | None:
    return None if earlier is None else max(0.0, round(later - earlier, 3))


def _unfinished(rows: Iterable[Lag], delayed: Iterable[Delayed]) -> int:
    return sum(row.unfinished if row.exact is None else row.exact for row in rows) + sum(one.due for one in delayed)


def _ask(config: Config, exact: bool) -> _Found:
    import sqlite3

    from confluent_kafka import KafkaException

    from kworker.kafka.backlogs import Backlogs
    from kworker.kafka.settings import admin_settings, consumer_settings
    from kworker.timekeeper.following import Follower, of_group

    retries = retry_topic(config.namespace, config.group)

    def takes(topic: str) -> bool:
        return topic == retries or config.takes(topic)

    reader = Backlogs(admin_settings(config), consumer_settings(config))
    follower = Follower(log_of(config.namespace), consumer_settings(config), reader.topic)
    try:
        # Order: what is handed over between the two readings is counted twice, and never not at all.
        waiting = follower.read()
        backlogs = reader.read(config.group, takes)
        counts = reader.exact(backlogs) if exact else {}
        return _Found(backlogs, counts, reader.oldest(backlogs), of_group(waiting, backlogs, takes))
    except (KafkaException, TimeoutError) as error:
        why = reader.why(error)
        hint = "check --bootstrap, its security, and that Describe and Read are allowed, on the delay log as well"
        raise ConfigError([f"broker {config.bootstrap}: {why}: {hint}"]) from error
    except (sqlite3.Error, OSError) as error:
        raise ConfigError([f"what is delayed cannot be kept: {error}: make room for temporary files"]) from error
    finally:
        follower.close()
        reader.close()


def _print(config: Config, rows: Iterable[Lag], delayed: Iterable[Delayed]) -> None:
    table = [("topic", "partition", "committed", "end", "lag", "unfinished", "oldest")]
    for row in rows:
        count = row.unfinished if row.exact is None else row.exact
        committed = "-" if row.committed is None else str(row.committed)
        place = (row.topic, str(row.partition), committed, str(row.end), str(row.lag))
        table.append((*place, str(count), _age(row.oldest)))
    table += [(one.topic, "due", "-", "-", "-", str(one.due), _age(one.oldest)) for one in delayed if one.due]
    if len(table) == 1 and not any(one.delayed for one in delayed):
        topics = ", ".join(config.topics)
        click.echo(f"kworker: group {config.group} has committed nothing, and there is no topic {topics}", err=True)
        sys.exit(1)
    for line in columns(table, right=range(1, 7)):
        click.echo(line)
    click.echo(f"{_unfinished(rows, delayed)} unfinished in group {config.group}")
    for one in delayed:
        if one.delayed:
            click.echo(f"{one.delayed} delayed for {one.topic}, the next is due in {_age(one.next_due)}")


def _age(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f}s"
