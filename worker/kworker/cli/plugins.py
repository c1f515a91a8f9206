"""`kworker plugins`: what is installed, what runs here, and why not; `kworker plugins new` is in new.py.

What it tells as JSON is the only thing on standard output, and the same each time.
"""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from kworker.cli.new import new
from kworker.cli.options import SOURCES, config_options, sources
from kworker.cli.schedule_telling import when
from kworker.config import Config
from kworker.errors import ConfigError, PluginError
from kworker.plugin import ScheduleSpec
from kworker.registry import LoadedTask, PluginInfo
from kworker.terminal import columns

_HEAD = ("PLUGIN", "TASK", "EXECUTOR", "TIMEOUT", "ATTEMPTS", "AT ONCE", "DISTRIBUTION", "")
_SCHEDULES = ("PLUGIN", "SCHEDULE", "TASK", "WHEN")


@click.group(epilog=SOURCES, invoke_without_command=True, subcommand_metavar="[new NAME]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the JSON Schema of each task's arguments.")
@click.option(
    "--schema",
    "schema_of",
    is_flag=False,
    flag_value="",
    metavar="[TASK]",
    help="JSON Schema and Avro schema of the arguments of every task, or of TASK, as JSON.",
)
@click.option("--asyncapi", "as_asyncapi", is_flag=True, help="A worker with these options as an AsyncAPI document.")
@config_options("plugin", "group", "topic", "bootstrap", "processes", "reply_topic", "schema_registry")
@click.pass_context
def plugins(context: click.Context, /, as_json: bool, schema_of: str | None, as_asyncapi: bool, **flags: Any) -> None:
    """List the installed plugins and their tasks, and why a task does not run here.

    Exit code 5 when a plugin could not be loaded; the others are listed all the same.
    """
    if context.invoked_subcommand is not None:
        return
    if as_json + as_asyncapi + (schema_of is not None) > 1:
        raise click.UsageError("--json, --schema and --asyncapi are three documents: ask for one")
    config = Config.load(*sources(flags), group_needed=False)
    loaded, faults = load_plugins(config, strict=not flags["plugin"])  # those chosen: other tables are not for them
    for fault in faults:
        click.echo(f"kworker: {fault}", err=True)
    if as_json:
        _print([_as_json(plugin) for plugin in loaded])
    elif schema_of is not None:
        from kworker.cli.schemas import schemas

        _print(schemas(loaded, schema_of))
    elif as_asyncapi:
        from kworker.cli.asyncapi import document

        _print(document(config, loaded))
    else:
        rows = [_row(plugin, task) for plugin in loaded for task in plugin.tasks]
        click.echo("\n".join(columns([_HEAD, *rows])) if rows else "no plugins: install one, such as kworker-http")
        if schedules := [_schedule(task, spec) for one in loaded for task in one.tasks for spec in task.spec.schedules]:
            click.echo("\n" + "\n".join(columns([_SCHEDULES, *schedules])))
    sys.exit(PluginError.exit_code if faults else 0)


plugins.add_command(new)


def load_plugins(config: Config, *, strict: bool = True) -> tuple[list[PluginInfo], list[str]]:
    """What can be loaded, and every fault of what cannot. strict: tables of tasks that nobody has are faults."""
    from kworker.loading import executors, load

    try:
        return load(config, executors(config), strict=strict).plugins, []
    except (PluginError, ConfigError) as error:
        faults = str(error).splitlines()
    loaded = []
    for name in sorted(_installed() if config.plugins is None else config.plugins):
        try:
            loaded += load(config, executors(config), only=name).plugins
        except PluginError:
            continue  # among the faults already
    return loaded, faults


def _installed() -> set[str]:
    from importlib.metadata import entry_points

    from kworker.registry import GROUP

    return {entry_point.name for entry_point in entry_points(group=GROUP)}


def _print(document: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))


def _row(plugin: PluginInfo, task: LoadedTask) -> tuple[str, ...]:
    spec = task.spec
    return (
        plugin.name,
        spec.name,
        spec.executor,
        f"{spec.timeout:g}s" if spec.timeout else "none",
        str(spec.max_attempts),
        str(spec.concurrency or "any"),
        f"{plugin.distribution} {plugin.version}",
        f"unavailable: {task.unavailable}" if task.unavailable else "",
    )


def _schedule(task: LoadedTask, spec: ScheduleSpec) -> tuple[str, ...]:
    return task.plugin, spec.name or task.spec.name, task.spec.name, when(spec.plan.trigger)


def _as_json(plugin: PluginInfo) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "tasks": [_task_as_json(task) for task in plugin.tasks],
    }


def _task_as_json(task: LoadedTask) -> dict[str, Any]:
    from kworker.codecs.arguments import Signature

    spec = task.spec
    return {
        "name": spec.name,
        "executor": spec.executor,
        "timeout": spec.timeout,
        "max_attempts": spec.max_attempts,
        "concurrency": spec.concurrency,
        "available": task.unavailable is None,
        "unavailable": task.unavailable,
        "schedules": [{"name": one.name or spec.name, "when": when(one.plan.trigger)} for one in spec.schedules],
        "arguments": task.signature.json_schema() if isinstance(task.signature, Signature) else None,
    }
