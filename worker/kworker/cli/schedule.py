"""`kworker schedule`: what is published at its times, added, listed, paused, run, removed, and applied from a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kworker.cli.connection import client as connected
from kworker.cli.options import SOURCES, config_options, sources
from kworker.cli.payload import as_json, read
from kworker.cli.schedule_telling import as_json as told
from kworker.cli.schedule_telling import following, table
from kworker.config import Config
from kworker.duration import seconds
from kworker.errors import ConfigError, DelayError, KworkerError, PublishError
from kworker.schedules.given import KEYS, Faults
from kworker.schedules.given import read as schedule_of

if TYPE_CHECKING:
    from kworker.client import Client
    from kworker.core.applying import Applied
    from kworker.schedules.schedule import Schedule, Standing
    from kworker.scheduling import Wanted

_connection = config_options("bootstrap", "namespace")
_LONGEST_LOOK = 30.0  # seconds for the outcomes of all schedules
_TRIES, _AGAIN = 10, 0.5  # how often schedules are applied that others apply at the same time; seconds between


@click.group()
def schedule() -> None:
    """Schedules: tasks that are published at their times."""


@schedule.command(epilog=SOURCES)
@click.argument("name")
@click.option("--cron", metavar="EXPRESSION", help="Minute hour day-of-month month day-of-week, such as '0 3 * * *'.")
@click.option("--tz", metavar="ZONE", help="Time zone of --cron, such as Europe/Berlin. [default: UTC]")
@click.option("--every", metavar="DURATION", help="Interval of a second or more, counted from the epoch.")
@click.option("--at", metavar="TIME", help="Once, at this time (RFC 3339).")
@click.option("--task", help="Task to publish.")
@click.option("--payload", metavar="JSON|@FILE|-", help="Its payload. [default: none]")
@click.option("--topic", metavar="NAME", help="Topic to publish to. [default: the one that is configured, or tasks]")
@click.option("--key", help="Key of the message.")
@click.option("--jitter", metavar="DURATION", help="Put each run off by a part of it, always the same one.")
@click.option("--misfire", metavar="once|all|skip", help="What becomes of times that passed. [default: once]")
@click.option("--most", type=int, metavar="N", help="How many passed times --misfire all runs. [default: 10]")
@_connection
def add(name: str, **flags: Any) -> None:
    """Add schedule NAME, or replace the one of this name, and print when it is due.

    Times that passed while no worker was there: the latest is run (once), the latest N are (all), or those that are
    late by more than a minute are not (skip).
    """
    wanted, config = _given(name, flags)
    with connected(config) as client:
        try:
            standing, before = client.schedules.put(wanted)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
    source = before.schedule.source if before else ""
    did = f"replaced the one of {source}" if source else "replaced" if before else "added"
    click.echo(f"{name}: {did}; {_next(standing)}")


@schedule.command(epilog=SOURCES)
@click.option("--json", "as_lines", is_flag=True, help="Print one JSON object a schedule, with its next five runs.")
@config_options("group", "bootstrap", "namespace")
def ls(as_lines: bool, **flags: Any) -> None:
    """List the schedules: when they are due next, when they were last, and what became of that run.

    An outcome is told when it can be known: by the commits of --group, or of all groups that read the topic, and its
    dead letters; else the run was enqueued. It reads all of the delay log, and changes nothing.
    """
    config = _config(flags)
    with connected(config) as client:
        standings = client.schedules.ls()
        rows = list(zip(standings, _outcomes(config, client, standings), strict=True))
    if as_lines:
        for standing, outcome in rows:
            click.echo(msgspec.json.encode(told(standing, outcome)).decode())
        return
    for line in table(rows) if rows else []:
        click.echo(line)
    if not rows:
        click.echo("no schedules")


@schedule.command(epilog=SOURCES)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--timeout", default="10s", show_default=True, metavar="DURATION", help="How long to wait for the answer."
)
@_connection
def rm(names: tuple[str, ...], timeout: str, **flags: Any) -> None:
    """Remove schedules, and print what became of each: removed, or unknown.

    A worker decides: afterwards nothing of them runs. Exit code 1 unless all were removed.
    """
    try:
        within = seconds(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    with connected(_config(flags)) as client:
        _each(names, lambda name: client.schedules.remove(name, timeout=within), failed="unknown")


@schedule.command(epilog=SOURCES)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_connection
def pause(names: tuple[str, ...], **flags: Any) -> None:
    """Have schedules wait for nothing until they are resumed."""

    def one(name: str) -> str:
        client.schedules.pause(name)
        return "paused"

    with connected(_config(flags)) as client:
        _each(names, one)


@schedule.command(epilog=SOURCES)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_connection
def resume(names: tuple[str, ...], **flags: Any) -> None:
    """Have paused schedules go on; what was due meanwhile is not run."""
    with connected(_config(flags)) as client:
        _each(names, lambda name: f"resumed; {_next(client.schedules.resume(name))}")


@schedule.command(epilog=SOURCES)
@click.argument("name")
@_connection
def run(name: str, **flags: Any) -> None:
    """Publish the task of schedule NAME now, beside its times, and print its id and place."""
    with connected(_config(flags)) as client:
        published = client.schedules.run(name)
    click.echo(f"{published.id}: {published}")


@schedule.command(epilog=SOURCES)
@config_options("group", "topic", "plugin", "bootstrap", "namespace", "create_topics", "delay_partitions")
def apply(**flags: Any) -> None:
    """Apply the schedules of kworker.toml and of the plugins, as a worker does when it starts.

    What left them is removed, the last one too. Nothing is applied when one of them is faulty.
    """
    from kworker.kafka.settings import faults
    from kworker.loading import executors, load
    from kworker.scheduling import wanted

    config = Config.load(*sources(flags), vet=faults)
    found = wanted(config, load(config, executors(config)).plugins)
    if found.faults:
        raise ConfigError(found.faults)
    change = _applied(config, found)
    for standing in change.written:
        click.echo(f"{standing.schedule.name}: applied; {_next(standing)}")
    for name in change.removed:
        click.echo(f"{name}: removed")
    for name, source in change.foreign.items():
        owner = f"came from {source}" if source else "was added by hand"
        click.echo(
            f"kworker: {name}: not applied: the one that stands {owner}; remove it, or name yours otherwise", err=True
        )
    if not (change.written or change.removed or change.foreign):
        click.echo("nothing to change")
    sys.exit(1 if change.foreign else 0)


def _applied(config: Config, found: Wanted) -> Applied:
    from confluent_kafka import KafkaException

    from kworker.kafka.transaction import Failed, Ousted, Refused
    from kworker.scheduling import apply, fault_of

    for left in reversed(range(_TRIES)):
        try:
            return apply(config, found, all_sources=True)
        except Ousted as error:  # a worker that starts does the same
            if not left:
                raise DelayError(f"others apply their schedules all the time: {error}") from error
            time.sleep(_AGAIN)
        except (KafkaException, Failed, Refused, TimeoutError) as error:
            raise DelayError(f"the schedules could not be applied: {fault_of(error)}") from error
    raise AssertionError("the last try returns or raises")


def _given(name: str, flags: dict[str, Any]) -> tuple[Schedule, Config]:
    """What the options of `add` mean. Raises ConfigError with all that is wrong."""
    from kworker.kafka.settings import faults as vet

    given = {key: flags.pop(key) for key in KEYS}
    config, faults = Config.read(*sources(flags), vet=vet, group_needed=False)
    given["topic"] = given["topic"] or next(iter(config.named_topics), None)
    try:
        if given["payload"] is not None:
            given["payload"] = as_json(read(given["payload"], "--payload"), "--payload")
    except click.UsageError as error:
        faults.append(error.message)
        given["payload"] = None
    try:
        found = schedule_of(name, given, now=time.time())
    except Faults as error:
        faults += [f"--{key}: {why}" if key else f"schedule {name[:40]}: {why}" for key, why in error.faults]
    if faults:
        raise ConfigError(faults)
    return found, config


def _outcomes(config: Config, client: Client, standings: Iterable[Standing]) -> Iterator[str | None]:
    """What became of the last run of each; None where there was none."""
    from confluent_kafka import KafkaException

    from kworker.kafka.occurrences import ENQUEUED, Occurrences, Run
    from kworker.kafka.settings import admin_settings, consumer_settings

    deadline = time.monotonic() + _LONGEST_LOOK
    with ExitStack() as stack:
        browsers: list[Any] = []

        def waits(id: str) -> bool:
            if not browsers:
                browsers.append(stack.enter_context(client.delays.browse()))
            return browsers[0].find(id.encode()) is not None

        occurrences = stack.enter_context(
            Occurrences(
                consumer_settings(config),
                admin_settings(config),
                config.namespace,
                dead_letter=config.dead_letter,
                waits=waits,
                group=config.group,
            )
        )
        for standing in standings:
            schedule, ran = standing.schedule, standing.ran
            outcome = None if ran is None else ENQUEUED
            if ran is not None and time.monotonic() < deadline:
                run = Run(schedule.occurrence(ran), schedule.topic, schedule.fires_at(ran))
                try:
                    outcome = occurrences.outcome(run)
                except (KafkaException, TimeoutError) as error:
                    why = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
                    click.echo(f"kworker: what became of the last runs cannot be told: {why}", err=True)
                    deadline = 0.0
            yield outcome


def _each(names: Iterable[str], do: Callable[[str], str], failed: str = "") -> None:
    """Do it for each name, and tell what came of it. Exit code 1 when one failed."""
    code = 0
    for name in names:
        try:
            said = do(name)
        except (DelayError, PublishError) as error:
            click.echo(f"kworker: {error}", err=True)
            code = KworkerError.exit_code
        else:
            click.echo(f"{name}: {said}")
            code = KworkerError.exit_code if said == failed else code
    sys.exit(code)


def _next(standing: Standing) -> str:
    return f"next run {following(standing)}" if standing.next is not None else following(standing)


def _config(flags: Mapping[str, Any]) -> Config:
    from kworker.kafka.settings import faults

    return Config.load(*sources(dict(flags)), vet=faults, group_needed=False)
