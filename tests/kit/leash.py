"""Run a command that cannot outlive the thread that started it: `python leash.py PARENT COMMAND...`.

The kernel is asked to kill this process when its parent dies, then it becomes the command. This is a script of
its own because a `preexec_fn` may deadlock in a process with threads, as every Kafka client has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def leashed(*command: str) -> list[str]:
    """`command` such that it dies (SIGKILL) with the thread that starts it: start it from one that stays."""
    return [sys.executable, "-S", str(Path(__file__)), str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Become `command`, unless `parent` has died already. Outside Linux there is no leash."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it was watched
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
