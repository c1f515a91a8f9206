"""The command `kworker`: `kworker run` unless another command is named.

Each command is imported when it is called, so that `kworker --help` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from kworker import __version__
from kworker.errors import ConfigError, KworkerError

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("kworker.cli.run:run", "Run a worker; what kworker does when only options are given."),
    "publish": ("kworker.cli.publish:publish", "Publish a task, and wait until it is acknowledged."),
    "plugins": ("kworker.cli.plugins:plugins", "List the installed plugins and their tasks; `plugins new` writes one."),
    "replay": ("kworker.cli.replay:replay", "Run one record of a topic here, once, without committing anything."),
    "lag": ("kworker.cli.lag:lag", "Show what a group has not finished; needs no worker."),
    "backlog": ("kworker.cli.backlog:backlog", "Serve the backlog of groups as metrics and JSON, for autoscalers."),
    "dlq": ("kworker.cli.dlq:dlq", "Dead letters: list, show, replay and purge them."),
    "delayed": ("kworker.cli.delayed:delayed", "Delayed tasks: list, show and cancel them."),
    "schedule": ("kworker.cli.schedule:schedule", "Schedules: tasks that are published at their times."),
    "topics": (
        "kworker.cli.topics:topics",
        "Make the topics that a group needs, or show how; changes none that is there.",
    ),
    "check": ("kworker.cli.check:check", "Check configuration, broker, topics, permissions and plugins."),
    "dev": ("kworker.cli.dev:dev", "Embedded broker and a worker, for trying things out."),
}
"""Name -> (where the command is, what its line of help says)."""

_HELP = ("-h", "--help", "--version")


class Commands(click.Group):
    """Imports a command when it is needed; arguments that start with an option belong to `run`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """No arguments ask for help; options alone are those of `run`."""
        if not args:
            args = ["--help"]
        elif args[0].startswith("-") and args[0] not in _HELP:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="kworker COMMAND --help says more.",
)
@click.version_option(__version__, message="kworker %(version)s")
def kworker() -> None:
    """Background work on Kafka.

    `kworker --group NAME` runs a worker; it needs a broker at 127.0.0.1:9092, or --bootstrap.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 2 for usage and configuration, else what the command says."""
    _hold_standard_descriptors()
    try:
        kworker.main(arguments, prog_name="kworker")
    except KworkerError as error:
        for line in error.faults if isinstance(error, ConfigError) else [str(error)]:
            click.echo(f"kworker: {line}", err=True)
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        sys.exit(error.exit_code)


def _hold_standard_descriptors() -> None:
    """Open those that came closed: the next socket would have the number of one, and be written our log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
