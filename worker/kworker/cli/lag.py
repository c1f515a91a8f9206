"""`kworker lag`: what of a group's topics is not finished, with no worker running.

It reads and changes nothing: no group is joined, nothing is committed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click
import msgspec
from msgspec import Struct

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.core.backlog import Backlog
from kworker.core.delayed import retry_topic
from kworker.errors import ConfigError
from kworker.task import TopicPartition
from kworker.terminal import columns


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


@click.command(epilog=SOURCES)
@click.option("--exact", is_flag=True, help="Count by reading the records: markers and compacted ones do not count.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document for machines.")
@config_options("group", "topic", "bootstrap", "namespace")
def lag(exact: bool, as_json: bool, **flags: Any) -> None:
    """Show what a group has not finished, by topic and partition; needs no worker.

    A record is finished when its offset is committed, or when the metadata of the commit says so: behind one slow
    task nearly all may be done. Topics: those the group has committed, and those of --topic.
    """
    from kworker.kafka.settings import faults

    config = Config.load(*sources(flags), vet=faults)
    backlogs, counts, ages = _ask(config, exact)
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
            max(0.0, round(now - ages[one.place], 3)) if one.place in ages else None,
        )
        for one in backlogs
    ]
    for one in backlogs:
        if not one.known:
            click.echo(f"kworker: {one.place}: the commit metadata is not kworker's: all above it counts", err=True)
    if as_json:
        total = sum(row.unfinished if row.exact is None else row.exact for row in rows)
        document = {"group": config.group, "unfinished": total, "partitions": rows}
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        _print(config, rows)


def _ask(
    config: Config, exact: bool
) -> tuple[list[Backlog], Mapping[TopicPartition, int], Mapping[TopicPartition, float]]:
    from confluent_kafka import KafkaException

    from kworker.kafka.backlogs import Backlogs
    from kworker.kafka.settings import admin_settings, consumer_settings

    retries = retry_topic(config.namespace, config.group)
    reader = Backlogs(admin_settings(config), consumer_settings(config))
    try:
        backlogs = reader.read(config.group, lambda topic: topic == retries or config.takes(topic))
        return backlogs, reader.exact(backlogs) if exact else {}, reader.oldest(backlogs)
    except (KafkaException, TimeoutError) as error:
        why = reader.why(error)
        hint = "check --bootstrap, its security, and that Describe and Read are allowed"
        raise ConfigError([f"broker {config.bootstrap}: {why}: {hint}"]) from error
    finally:
        reader.close()


def _print(config: Config, rows: Iterable[Lag]) -> None:
    table = [("topic", "partition", "committed", "end", "lag", "unfinished", "oldest")]
    unfinished = 0
    for row in rows:
        count = row.unfinished if row.exact is None else row.exact
        unfinished += count
        committed = "-" if row.committed is None else str(row.committed)
        oldest = "" if row.oldest is None else f"{row.oldest:,.0f}s"
        table.append((row.topic, str(row.partition), committed, str(row.end), str(row.lag), str(count), oldest))
    if len(table) == 1:
        topics = ", ".join(config.topics)
        click.echo(f"kworker: group {config.group} has committed nothing, and there is no topic {topics}", err=True)
        sys.exit(1)
    for line in columns(table, right=range(1, 7)):
        click.echo(line)
    click.echo(f"{unfinished} unfinished in group {config.group}")
