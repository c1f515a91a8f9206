"""kworker-shell: run a configured command with the payload on standard input."""

from __future__ import annotations

from kworker_shell.plugin import CommandFailedError, Shell
from kworker_shell.settings import Command, ShellSettings

__all__ = ["Command", "CommandFailedError", "Shell", "ShellSettings"]
