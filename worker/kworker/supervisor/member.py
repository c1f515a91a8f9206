"""One worker of a supervisor: the process that it has now, what that told last, what its earlier ones counted.

Owned by the supervisor's loop; the pages read `process`, `known`, `starts`, `ended` and `due`, each in one step.
"""

from __future__ import annotations

import logging
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import msgspec

from kworker.bulletin import Bulletin, Snapshot
from kworker.config import Config
from kworker.metrics import lasting, merge
from kworker.process.sentinel import LOOKS, Silence, frozen
from kworker.supervisor.line import Line
from kworker.supervisor.restarts import Restarts

log = logging.getLogger("kworker")

BOOT = 60.0
"""Seconds that a new process may take to its first sign of life: a busy machine starts it slowly."""

_COMMAND = (
    "import sys; fd, *sys.path = sys.argv[1:]; sys.argv[1:] = []; "
    "from kworker.supervisor.supervised import main; main(int(fd))"
)
_STATIC = "group.instance.id"
_ABORT = 5.0  # seconds from SIGABRT to SIGKILL: the stacks of many threads take a moment
_told = msgspec.msgpack.Decoder(Bulletin | None)


class Known(NamedTuple):
    """What is known of a worker's numbers: counted by the processes that ended, and told by the one that runs."""

    past: Snapshot
    told: Bulletin | None


class Member:
    """See the module. limit: seconds of silence after which its process is aborted.

    starts: processes that were started. ended: the exit code of the last one that ended, 128 and more by a signal.
    due: when the next one is to start; None while one runs, and when none is to.
    """

    def __init__(self, number: int, config: Config, limit: float) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.line: Line | None = None
        self.known = Known({}, None)
        self.starts = 0
        self.ended: int | None = None
        self.due: float | None = 0.0
        self.heard_at = 0.0
        self._config = _own(config, number)
        self._limit = limit
        self._restarts = Restarts()
        self._silence = Silence()
        self._next_look = self._born = 0.0
        self._abort: float | None = None

    def start(self, now: float) -> None:
        """Start its process. Raises OSError when that cannot be."""
        ours, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is the supervisor's
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.line = Line(ours)
        # By the socket: arguments would show secrets to everybody.
        self.line.send(pickle.dumps((self.number, self._config), protocol=5))
        self.starts += 1
        self.due = None
        self._born = self.heard_at = now
        self._silence, self._abort = Silence(), None
        self._next_look = now + BOOT
        log.info("worker started", extra={"worker": self.number, "pid": self.process.pid})

    @property
    def serves(self) -> bool:
        """Whether its process has told something of itself: it answers signals."""
        return self.process is not None and self.known.told is not None

    def signal(self, number: int) -> None:
        """Send its process a signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def hear(self, now: float) -> None:
        """Take what its process told, and send what it has not taken yet."""
        if self.line is None:
            return
        self.line.send()
        for frame in self.line.receive():
            self._silence.heard()
            self._next_look, self.heard_at = now + self._limit / LOOKS, now
            told = _told.decode(frame)
            self.known = self.known._replace(told=told or self.known.told or Bulletin([]))

    def look(self, now: float) -> None:
        """End its process when it has been silent for too long."""
        if self.process is None or now < self._next_look:
            return
        self._next_look = now + self._limit / LOOKS
        if self._abort is not None:
            if now > self._abort + _ABORT:
                self.process.kill()
        elif self._silence.look(frozen=frozen(self.process.pid)):
            self._abort = now
            log.critical(
                "worker does not move, something may hold the GIL: aborting it, its stacks follow",
                extra={"worker": self.number, "pid": self.process.pid, "seconds": self._limit},
            )
            self.process.send_signal(signal.SIGABRT)

    def reap(self, now: float, *, again: bool) -> int | None:
        """The exit code of its process when it has just ended, else None. again: start another one when it is time.

        When none is to be, `due` stays None.
        """
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.hear(now)
        if code < 0:
            # Told to end before it could answer signals: it had taken nothing.
            code = 0 if code == -signal.SIGTERM and not self.serves else 128 - code
        lived = now - self._born
        assert self.line is not None
        self.line.socket.close()
        past, told = self.known
        # One step, for the pages: a counter never falls, and nothing counts twice.
        self.known = Known(merge([past, lasting(told.metrics)]) if told is not None else past, None)
        self.process, self.line, self.ended = None, None, code
        wait = self._restarts.wait(code, lived) if again else None
        self.due = None if wait is None else now + wait
        log.log(
            logging.WARNING if again else logging.INFO,
            "worker ended",
            extra={"worker": self.number, "code": code, "lived": round(lived, 1)} | ({"again": wait} if wait else {}),
        )
        return code

    def described(self, now: float) -> dict[str, object]:
        """For the status page. now: monotonic seconds."""
        process, due, told = self.process, self.due, self.known.told
        return {
            "worker": self.number,
            "pid": process.pid if process is not None else None,
            "starts": self.starts,
            "last_exit": self.ended,
            "starts_again_in": round(max(0.0, due - now), 1) if due is not None else None,
            "live": told.live if told is not None else [],
            "ready": self.unready(),
            "status": told.status if told is not None else {},
        }

    def unready(self) -> list[str]:
        """Why it is not ready; empty when it is."""
        if self.process is None:
            return [f"ended with {self.ended}" if self.ended is not None else "not started"]
        told = self.known.told
        return told.ready if told is not None else ["starting"]


def _own(config: Config, number: int) -> Config:
    """The configuration of one worker of several: a static member needs a name of its own."""
    static = config.kafka.get(_STATIC)
    own = {_STATIC: f"{static}-{number}"} if static else {}
    return replace(config, workers=1, notes=(), kafka={**config.kafka, **own})
