"""A worker process under a supervisor, from its side: told of its configuration, tells what there is to tell.

Promises: the supervisor hears of it several times in the longest silence that it allows; when the supervisor is gone,
however it went, the worker stops as by SIGTERM.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from kworker.bulletin import Bulletin
from kworker.config import Config
from kworker.errors import KworkerError
from kworker.launch import launch
from kworker.supervisor.line import Line


class Tie:
    """The line to the supervisor, as the worker's guard: it hears the beats, and ends a worker without any."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def start(self) -> None:
        """Stop with the supervisor."""
        threading.Thread(target=self._wait_for_the_end, name="kworker-supervisor", daemon=True).start()

    def beat(self, bulletin: Callable[[], Bulletin]) -> None:
        """Tell all; nothing new while the last of it is not heard."""
        self._line.send()
        if self._line.idle:
            self._line.send(msgspec.msgpack.encode(bulletin()))

    def stop(self) -> None:
        """Nothing: the line ends with the process."""

    def _wait_for_the_end(self) -> None:
        select.select([self._line.socket], [], [])  # nothing is ever said to this side: readable is closed
        # A signal, so that it counts at every moment from here to the end; this one never counts as a second one.
        os.kill(os.getpid(), signal.SIGHUP)


def main(fd: int) -> None:
    """Be a worker. fd: the socket to the supervisor."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    end = socket.socket(fileno=fd)
    number, config = _hello(end)
    try:
        _run(number, config, Tie(Line(end)))
    except KworkerError as error:
        print(f"kworker: worker {number}: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def _run(number: int, config: Config, tie: Tie) -> None:
    from kworker.worker import run_worker

    def run() -> int:
        last: list[Callable[[], Bulletin]] = []
        try:
            return run_worker(config, supervisor=tie, finally_=last.append)
        finally:
            with suppress(Exception):
                tie.beat(last[0])

    launch(config, run, {"worker": number})


def _hello(end: socket.socket) -> tuple[int, Config]:
    """The worker's number and configuration, of the supervisor that started this process."""
    line = Line(end)
    while True:
        select.select([end], [], [])
        frames = line.receive()
        if frames:
            number, config = pickle.loads(frames[0])
            return number, config
        if line.gone:
            os._exit(0)
