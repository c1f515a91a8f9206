"""What `[plugins.shell]` of kworker.toml may say, and a command of it made ready to run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from kworker import Reject

ExitCode = Annotated[int, Meta(ge=0, le=255)]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked for when the worker itself has no PATH."""


class Command(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One command that messages may name.

    argv: the program (an absolute path, or a name found on PATH) and its fixed arguments; no shell reads them.
    cwd: an absolute folder; the root folder when absent. env: names of variables handed on from the worker.
    args: whether a message may add arguments: False, True, or a regular expression that each must match as a whole.
    options: whether an added argument may start with '-'. max_args: how many may be added.
    timeout: seconds until SIGTERM; the task's own timeout holds as well. grace: seconds from SIGTERM to SIGKILL.
    max_output: bytes kept of each of stdout (its start) and stderr (its end).
    success_codes, retry_codes, reject_codes: exit codes that mean done, try again, never again. Any other is a
    failure, which the retry policy decides on.
    """

    argv: Annotated[list[str], Meta(min_length=1)]
    cwd: str = "/"
    env: list[str] = []
    args: bool | str = False
    options: bool = False
    max_args: Annotated[int, Meta(ge=1, le=1000)] = 16
    timeout: Annotated[float, Meta(gt=0, le=30 * 86400)] | None = None
    grace: Annotated[float, Meta(ge=0, le=300)] = 5.0
    max_output: Annotated[int, Meta(ge=1, le=1 << 26)] = 1 << 16
    success_codes: tuple[ExitCode, ...] = (0,)
    retry_codes: tuple[ExitCode, ...] = (75,)
    reject_codes: tuple[ExitCode, ...] = ()


class ShellSettings(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The settings of kworker-shell. commands: by the name that a message gives."""

    commands: Annotated[dict[str, Command], Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Ready:
    """A command whose program was found. env: what it gets of the worker's environment."""

    command: Command
    program: str
    env: Mapping[str, str]
    pattern: re.Pattern[str] | None

    def argv(self, args: Sequence[str]) -> list[str]:
        """The whole argument list. Raises Reject for arguments that the command does not take."""
        command = self.command
        if args and command.args is False:
            raise Reject("args: this command takes none")
        if len(args) > command.max_args:
            raise Reject(f"args: {len(args)} of them, at most {command.max_args} are allowed")
        for index, arg in enumerate(args):
            if "\0" in arg:
                raise Reject(f"args[{index}]: holds a NUL")
            if arg.startswith("-") and not command.options:
                raise Reject(f"args[{index}]: starts with '-', and this command takes no options")
            if self.pattern is not None and not self.pattern.fullmatch(arg):
                raise Reject(f"args[{index}]: does not match the command's pattern")
        return [*command.argv, *args]


def prepare(name: str, command: Command, environ: Mapping[str, str], faults: list[str]) -> Ready | None:
    """Find the program and check what is configured; findings are added to `faults`, one line each."""
    where = f"plugins.shell: commands.{name}"
    found: list[str] = []
    env = {
        "PATH": environ.get("PATH", PATH),
        "HOME": environ.get("HOME", "/"),
        "LANG": environ.get("LANG", "C.UTF-8"),
        **{each: environ[each] for each in command.env if each in environ},
    }
    asked = command.argv[0]
    program = None if "/" in asked and not Path(asked).is_absolute() else shutil.which(asked, path=env["PATH"])
    if program is None:
        found.append(f"argv: no program {asked!r}: give an absolute path, or a name on PATH")
    if not Path(command.cwd).is_absolute() or not Path(command.cwd).is_dir():
        found.append(f"cwd: {command.cwd!r} is not the absolute path of a folder")
    if any("\0" in arg for arg in command.argv):
        found.append("argv: holds a NUL")
    codes = [*command.success_codes, *command.retry_codes, *command.reject_codes]
    if len(set(codes)) < len(codes):
        found.append("success_codes, retry_codes, reject_codes: an exit code stands in two places")
    pattern = None
    if isinstance(command.args, str):
        try:
            pattern = re.compile(command.args)
        except re.error as error:
            found.append(f"args: not a regular expression: {error}")
    faults += [f"{where}.{fault}" for fault in found]
    return None if program is None or found else Ready(command, program, env, pattern)
