"""The supervisor: one loop that keeps N worker processes running, hands signals on, and shows them as one worker.

Promises: a worker that ends is started again after a growing wait, unless its code says that this cannot help; a stop
ends with the worst of the workers' codes; what does not end in its time is killed; no worker outlives it, since they
stop when its sockets close, also by kill -9.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from selectors import EVENT_READ, DefaultSelector
from types import FrameType

from kworker.config import Config
from kworker.health import AdminServer
from kworker.instruments import stall_limit
from kworker.process.notify import Notifier
from kworker.process.sentinel import LOOKS
from kworker.supervisor.member import Member
from kworker.supervisor.pages import Pages
from kworker.supervisor.restarts import worst

log = logging.getLogger("kworker")

_TICK = 0.5
_MARGIN = 15.0  # seconds beyond the drain until a worker that has not ended is killed
_MARGIN_NOW = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Supervisor:
    """See the module. `config.workers`: how many. Raises ConfigError when the admin port cannot be had."""

    def __init__(self, config: Config) -> None:
        limit = stall_limit(config)
        self._config = config
        self._members = [Member(number, config, limit) for number in range(config.workers)]
        self._pages = Pages(config, self._members, limit)
        self._admin = AdminServer(
            config.admin_host,
            config.admin_port,
            explicit=config.admin_port_explicit,
            metrics=self._pages.metrics,
            live=self._pages.live,
            ready=self._pages.ready,
            status=self._pages.status,
        )
        self._notifier = Notifier(os.environ)
        self._tick = min(_TICK, limit / LOOKS, self._notifier.interval or _TICK)
        self._selector = DefaultSelector()
        self._signals: deque[int] = deque()
        self._quiet: set[int] = set()  # pids that were told to be, when all are to be
        self._be_quiet = False
        self._stops = 0
        self._kill_at: float | None = None
        self._code = 0
        self._codes: list[int] = []

    def run(self) -> int:
        """Keep the workers until a signal, or a code that no restart mends; returns the exit code of all."""
        self._take_signals()
        self._admin.start()
        address = f"http://{self._config.admin_host}:{self._admin.port}/metrics"
        log.info("admin port open", extra={"metrics": address, "pid": os.getpid(), "workers": self._config.workers})
        while not self._over():
            now = time.monotonic()
            self._pages.moved = now
            while self._signals:
                self._obey(self._signals.popleft(), now)
            for member in self._members:
                self._serve(member, now)
            self._notify(now)
            self._selector.select(self._tick)
            self._woken()
        self._admin.stop(0.5)
        code = self._code or worst(self._codes)
        log.info("stopped", extra={"code": code})
        return code

    def _over(self) -> bool:
        return self._stops > 0 and all(member.process is None for member in self._members)

    def _serve(self, member: Member, now: float) -> None:
        """One turn for one worker: hear it, see whether it lives, start it when it is time."""
        stopping = self._stops > 0
        member.hear(now)
        if member.line is not None and member.line.gone:
            self._forget(member)
        code = member.reap(now, again=not stopping)
        if code is not None and stopping:
            self._codes.append(code)
        elif code is not None and member.due is None:
            log.critical("no restart mends this: all are ended", extra={"worker": member.number, "code": code})
            self._code = code
            self._stop(signal.SIGTERM, now)
        elif member.due is not None and now >= member.due and not stopping:
            self._start(member, now)
        elif stopping and self._kill_at is not None and now > self._kill_at:
            member.signal(signal.SIGKILL)
        elif self._be_quiet and member.serves and member.process and member.process.pid not in self._quiet:
            self._quiet.add(member.process.pid)
            member.signal(signal.SIGUSR1)
        member.look(now)

    def _start(self, member: Member, now: float) -> None:
        try:
            member.start(now)
        except OSError as error:  # out of processes, memory or descriptors: so in a moment
            log.warning("a worker could not be started: %s", error, extra={"worker": member.number})
            member.due = now + _MARGIN_NOW
            return
        assert member.line is not None
        self._selector.register(member.line.socket, EVENT_READ)

    def _forget(self, member: Member) -> None:
        assert member.line is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(member.line.socket)

    # -- signals ------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        self._woke, wake = os.pipe()
        for end in (self._woke, wake):
            os.set_blocking(end, False)
        self._selector.register(self._woke, EVENT_READ)

        def note(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)

        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
                signal.signal(number, note)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # it wakes the loop

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woke, 4096)

    def _obey(self, number: int, now: float) -> None:
        if number == signal.SIGUSR1:
            self._be_quiet = True
        elif number == signal.SIGUSR2:
            for member in self._members:
                if member.serves:
                    member.signal(number)
        elif number != signal.SIGHUP or self._stops == 0:
            self._stop(signal.SIGQUIT if number == signal.SIGQUIT else signal.SIGTERM, now)

    def _stop(self, number: int, now: float) -> None:
        """Have all workers stop; a second time, or by SIGQUIT, at once."""
        self._stops += 1
        at_once = self._stops > 1 or number == signal.SIGQUIT
        log.info("stopping: the workers are told", extra={"at_once": at_once})
        self._kill_at = now + (_MARGIN_NOW if at_once else self._config.drain_timeout + _MARGIN)
        self._pages.stopping = True
        self._notifier.stopping()
        for member in self._members:
            member.due = None
            member.signal(signal.SIGQUIT if at_once and member.serves else signal.SIGTERM)

    def _notify(self, now: float) -> None:
        (told, reason), *_ = self._pages.ready().items()
        if not reason:
            self._notifier.ready()
        self._notifier.status(told)
        self._notifier.beat(now, lambda: True)
