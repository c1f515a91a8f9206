"""The plugin: task `shell.run`, and what a command's end means for the task."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any, ClassVar

import msgspec

from kworker import ConfigError, Context, Plugin, Reject, Retry, task
from kworker_shell import process
from kworker_shell.process import Ended, Stopped
from kworker_shell.settings import Ready, ShellSettings, prepare

EXCERPT = 500
"""Characters of stderr's end that an error shows."""
_SPARE = 0.25
"""Seconds of the task's own time kept for ending the processes and for what follows."""


class CommandFailedError(Exception):
    """A command ended with an exit code that its settings do not name: the retry policy decides."""


class Shell(Plugin):
    """Runs configured commands; a message chooses one by name, gives its standard input, and no more."""

    Settings: ClassVar[type[msgspec.Struct] | None] = ShellSettings

    def setup(self, settings: ShellSettings) -> None:
        """Find the program of every command. Raises ConfigError with every finding."""
        faults: list[str] = []
        ready = {name: prepare(name, command, os.environ, faults) for name, command in settings.commands.items()}
        if faults:
            raise ConfigError(faults)
        self._commands = {name: command for name, command in ready.items() if command is not None}

    @task("shell.run")
    def run(
        self, command: str, stdin: str | None = None, args: tuple[str, ...] = (), *, ctx: Context
    ) -> dict[str, Any]:
        """Run the command named `command` with `stdin` on its standard input.

        args: added to its argument list, if the command takes any.
        Returns `{"exit", "stdout", "stderr", "truncated"}`. Raises Reject for an unknown command, refused arguments
        and its reject_codes; Retry for its retry_codes, a signal, and when it was stopped; CommandFailedError
        for any other exit code.
        """
        ready = self._commands.get(command)
        if ready is None:
            raise Reject(f"command: {command[:40]!r} is none of [plugins.shell.commands]")
        argv = ready.argv(args)
        seconds, grace = _time(ready, ctx)
        try:
            ended = process.run(
                argv,
                program=ready.program,
                stdin=(stdin or "").encode(),
                cwd=ready.command.cwd,
                env={**ready.env, "KWORKER_TASK_ID": _text(ctx.id), "KWORKER_ATTEMPT": str(ctx.attempt)},
                limit=ready.command.max_output,
                seconds=seconds,
                grace=grace,
                cancelled=lambda: ctx.cancelled,
            )
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise Reject("args: longer than the system allows") from error
            raise
        return _judge(command, ready, ended)


def _time(ready: Ready, ctx: Context) -> tuple[float | None, float]:
    """Seconds to run, and from SIGTERM to SIGKILL, so that both end before the task's own time does."""
    seconds, grace = ready.command.timeout, ready.command.grace
    remaining = ctx.remaining()
    if remaining is None:
        return seconds, grace
    grace = min(grace, remaining / 4)
    left = remaining - grace - _SPARE
    if left <= 0 or ctx.cancelled:
        raise Retry("no time is left to run a command")
    return (left if seconds is None else min(seconds, left)), grace


def _text(task_id: str) -> str:
    if "\0" in task_id:
        raise Reject("the task's id holds a NUL: no environment variable can")
    return task_id


def _judge(name: str, ready: Ready, ended: Ended) -> dict[str, Any]:
    command, code = ready.command, ended.code
    if ended.stopped is Stopped.TIMEOUT:
        raise Retry(f"{name} was stopped: it did not end in time{_excerpt(ended)}")
    if ended.stopped is Stopped.CANCELLED:
        raise Retry(f"{name} was stopped: the worker gave the task up{_excerpt(ended)}")
    if code < 0:
        raise Retry(f"{name} was killed by {_signal_name(-code)}{_excerpt(ended)}")
    if code in command.success_codes:
        return {
            "exit": code,
            "stdout": ended.stdout.text,
            "stderr": ended.stderr.text,
            "truncated": ended.stdout.truncated or ended.stderr.truncated,
        }
    text = f"{name} ended with exit code {code}{_excerpt(ended)}"
    if code in command.retry_codes:
        raise Retry(text)
    if code in command.reject_codes:
        raise Reject(text)
    raise CommandFailedError(text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _excerpt(ended: Ended) -> str:
    text = ended.stderr.text.strip()[-EXCERPT:]
    return f": {text!r}" if text else ""
