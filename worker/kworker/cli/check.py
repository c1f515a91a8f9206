"""`kworker check`: everything that would keep a worker from working, at once, before it starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from kworker.cli.finding import Finding, fail, ok, warn
from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.errors import KworkerError


@click.command(epilog=SOURCES)
@config_options()
def check(**flags: Any) -> None:
    """Check configuration, broker, topics, permissions, the group and plugins; changes nothing.

    Prints ok, warn or FAIL a line, with what to do. Exit code 2 when anything is FAIL.
    """
    failed = False
    for finding in _all(flags):
        failed |= finding.level == "FAIL"
        click.echo(f"{finding.level:<5} {finding.text}")
    sys.exit(2 if failed else 0)


def _all(flags: dict[str, Any]) -> Iterator[Finding]:
    from kworker.cli.broker import examine
    from kworker.kafka.settings import faults as vet

    config, faults = Config.read(*sources(flags), vet=vet, group_needed=False)
    yield from map(fail, faults)
    yield from map(warn, config.notes)
    if not faults:
        yield ok(f"configuration: {config.file or 'flags, environment and defaults'}")
    reached = False
    for finding in examine(config):
        reached |= finding.level == "ok"
        yield finding
    yield from _schema_registry(config)
    yield from _plugins(config, reached=reached)


def _schema_registry(config: Config) -> Iterator[Finding]:
    if config.schema_registry is None:
        return
    from kworker.codecs.schema_registry import SchemaRegistry

    try:
        SchemaRegistry(config.schema_registry).check()
    except KworkerError as error:
        yield fail(f"{error}: tasks in Confluent framing would wait; check --schema-registry and [schema_registry]")
    else:
        yield ok("schema registry: it answers")


def _plugins(config: Config, *, reached: bool) -> Iterator[Finding]:
    from kworker.cli.plugins import load_plugins
    from kworker.cli.schedule_check import schedules

    loaded, faults = load_plugins(config)
    yield from map(fail, faults)
    offered = {task.spec.name for plugin in loaded for task in plugin.tasks if task.unavailable is None}
    for plugin in loaded:
        names = [task.spec.name for task in plugin.tasks if task.unavailable is None]
        yield ok(
            f"plugin {plugin.name} ({plugin.distribution} {plugin.version}): {', '.join(names) or 'no tasks here'}"
        )
        for task in plugin.tasks:
            if task.unavailable:
                yield warn(f"task {task.spec.name} is not offered: {task.unavailable}")
    if not offered:
        yield warn("plugins: none offers a task here, so every record becomes a dead letter: install one")
    for topic, settings in config.topic_settings.items():
        if settings.task and settings.task not in offered:
            yield fail(f'[topics."{topic}"] task: no plugin offers {settings.task} here: install one that does')
    yield from schedules(config, loaded, reached=reached)
