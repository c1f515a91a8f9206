"""A worker process under a supervisor, from its side: told of its configuration, it tells what there is to tell.

Promises: the supervisor hears of it several times in the longest silence that it allows, and at its end; when the
supervisor is gone, however it went, the worker stops as by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

import msgspec

from kworker.bulletin import Bulletin
from kworker.config import Config
from kworker.errors import KworkerError
from kworker.launch import launch
from kworker.supervisor.line import Line

log = logging.getLogger(__name__)

_LAST_WORD = 1.0  # seconds that the supervisor has to take it


class Tie:
    """The line to the supervisor, as the worker's guard: it ends a worker that it does not hear."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def start(self) -> None:
        """Stop with the supervisor."""
        threading.Thread(target=self._wait_for_the_end, name="kworker-supervisor", daemon=True).start()

    def beat(self, bulletin: Callable[[], Bulletin]) -> None:
        """Tell all; nothing new while the last of it is not heard."""
        self._line.send()
        if not self._line.idle:
            return
        told: Bulletin | None = None
        try:
            told = bulletin()
        except Exception:  # it reads what others write; it lives all the same, and tells more the next time
            log.debug("what there is to tell could not be read", exc_info=True)
        self._line.send(msgspec.msgpack.encode(told))

    def stop(self) -> None:
        """Have the last of it heard."""
        select.select([], [self._line.socket], [], _LAST_WORD)
        self._line.send()

    def _wait_for_the_end(self) -> None:
        select.select([self._line.socket], [], [])  # nothing more is said to this side: it is closed
        # A signal, so that it counts at every moment from here on; this one is never taken for a second one.
        os.kill(os.getpid(), signal.SIGHUP)


def main(fd: int) -> None:
    """Be a worker. fd: the socket to the supervisor."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    line = Line(socket.socket(fileno=fd))
    number, config = _hello(line)
    from kworker.worker import run_worker  # late: a supervisor that is gone needs no worker

    try:
        launch(config, lambda: run_worker(config, Tie(line)), {"worker": number})
    except KworkerError as error:
        print(f"kworker: worker {number}: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def _hello(line: Line) -> tuple[int, Config]:
    """The number and the configuration that the supervisor gives this process."""
    while True:
        select.select([line.socket], [], [])
        for frame in line.receive():
            number, config = pickle.loads(frame)  # of the process that started this one
            return number, config
        if line.gone:
            os._exit(0)
