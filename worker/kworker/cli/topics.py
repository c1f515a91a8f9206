"""`kworker topics`: the topics that a group needs, made before its workers start.

Promises: what is there is left as it is, so it may be run again; with --dry-run nothing is made. It makes no topic for
a regular expression: whoever publishes to such a topic does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from kworker.cli.finding import Finding, fail, ok, warn
from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.errors import ConfigError
from kworker.kafka.topics import TopicFault, TopicInfo, Topics


@click.command(epilog=SOURCES)
@click.option(
    "--partitions",
    type=click.IntRange(1, 100_000),
    default=12,
    show_default=True,
    help="Of a topic for tasks; its dead-letter topic has as many.",
)
@click.option(
    "--replication", type=click.IntRange(1, 1_000), help="Copies of what is made. [default: what the broker says]"
)
@click.option("--dry-run", is_flag=True, help="Make nothing; print what is missing, and the command that makes it.")
@config_options("group", "topic", "bootstrap", "namespace", "delay_partitions")
def topics(partitions: int, replication: int | None, dry_run: bool, **flags: Any) -> None:
    """Make what a group needs and is not there yet: the topics of its tasks, their dead-letter topics, the delay log,
    and the topic where retries come back.

    Prints ok, warn or FAIL a line. Exit code 1 when something is missing and could not be made.
    """
    from confluent_kafka import KafkaException

    from kworker.kafka.settings import faults

    config = Config.load(*sources(flags), vet=faults)
    failed = False
    try:
        for finding in _all(config, partitions, replication or -1, create=not dry_run):
            failed |= finding.level == "FAIL"
            click.echo(f"{finding.level:<5} {finding.text}")
    except (KafkaException, TimeoutError) as error:
        raise ConfigError([f"broker {config.bootstrap}: {error}: check --bootstrap and its security"]) from error
    sys.exit(1 if failed else 0)


def _all(config: Config, partitions: int, replication: int, *, create: bool) -> Iterator[Finding]:
    from kworker.kafka.settings import admin_settings

    broker = Topics(admin_settings(config), replication)
    names = config.named_topics
    pairs = {topic: config.dead_letter(topic) for topic in names}
    before = broker.describe([*names, *pairs.values()])
    if unreachable := next((about.error for about in before.values() if about.error), ""):
        raise ConfigError([f"broker {config.bootstrap}: {unreachable}: check --bootstrap, its security and ACLs"])
    faults = broker.ensure(names, partitions, create=create)
    yield from _made(names, before, faults, create=create)
    if not (create and faults):  # without its source none could be made
        faults = broker.ensure_dead_letters(pairs, create=create, absent=partitions)
        yield from _made(pairs.values(), before, faults, create=create)
    for pattern in config.topics:
        if pattern.startswith("^"):
            yield ok(
                f"topic {pattern}: a regular expression: made by whoever publishes, its dead letters by the worker"
            )
    if broker.imitated:
        yield ok("delay log: the embedded broker has none")
    else:
        yield from _of_delays(config, broker, replication, create=create)


def _made(
    names: Iterable[str], before: Mapping[str, TopicInfo], faults: list[TopicFault], *, create: bool
) -> Iterator[Finding]:
    wrong = {fault.topic: fault for fault in faults}
    for name in names:
        if before[name].partitions:
            yield ok(f"topic {name}: it is there, with {before[name].partitions} partitions")
        elif name in wrong:
            yield (fail if create else warn)(str(wrong[name]))
        else:
            yield ok(f"topic {name}: made")


def _of_delays(config: Config, broker: Topics, replication: int, *, create: bool) -> Iterator[Finding]:
    from kworker.cli.delay_check import delay_log
    from kworker.kafka.delaylog import DelayLog

    log = DelayLog(config, replication)
    wanted = [(log.name, log.create, log.create_command)]
    if config.delays_retries:
        wanted.append((log.retries, log.create_retries, log.retries_command))
    before = broker.describe([name for name, _, _ in wanted])
    for name, make, command in wanted:
        if before[name].partitions:
            yield from delay_log(config, [name]) if name == log.name else [ok(f"topic {name}: it is there")]
        elif not create:
            yield warn(f"topic {name!r} is missing; create it with: {command(config.delay_partitions)}")
        else:
            why = before[name].error or make(config.delay_partitions)
            yield fail(why) if why else ok(f"topic {name}: made")
