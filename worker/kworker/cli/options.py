"""The options that `run`, `check` and `plugins` share, made from the table of the configuration.

click only collects their text: what counts over what, and what is wrong, is decided in one place, kworker.config.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from kworker.config import Config, find
from kworker.config.options import OPTIONS, Option

Command = Callable[..., Any]

SOURCES = (
    "Every option has an environment variable KWORKER_<OPTION> (lists by commas) and a key in kworker.toml; "
    "flag over environment over file over default. Durations: 250ms 10s 5m 2h 3d."
)
"""What the help of a command says below its options."""


def config_options(*names: str) -> Callable[[Command], Command]:
    """Add the options of the configuration to a command: those named, or all."""

    def decorate(command: Command) -> Command:
        defaults = Config()
        command = click.option(
            "-X",
            "kafka",
            multiple=True,
            metavar="KEY=VALUE",
            help="Property of librdkafka; repeatable. KEY.file=PATH reads the value, such as a secret, from a file.",
        )(command)
        command = click.option(
            "--config", metavar="FILE", help="TOML file. [default: kworker.toml, if there is one here]"
        )(command)
        for option in reversed(OPTIONS):
            if not names or option.name in names:
                text = f"{option.help}{_default(option, defaults)}"
                add = click.option(option.flag, option.name, metavar=option.metavar, multiple=option.many, help=text)
                command = add(command)
        return command

    return decorate


def sources(flags: dict[str, Any]) -> tuple[Mapping[str, object], Mapping[str, str], Path | None]:
    """The three sources of `Config.load`, for this process."""
    return flags, os.environ, find(flags.pop("config"), os.environ, Path.cwd())


def _default(option: Option, defaults: Config) -> str:
    value = getattr(defaults, option.attribute)
    if option.name == "processes":
        return " [default: one a CPU]"
    if option.name == "lost_slots":
        return " [default: half of concurrency, at least 4]"
    if option.name == "max_in_memory_bytes":
        return f" [default: {value >> 20}MiB]"
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f" [default: {value:g}s]" if isinstance(value, float) else f" [default: {str(value).lower()}]"
