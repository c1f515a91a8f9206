"""What systemd is told of a service of Type=notify: the protocol of sd_notify(3), without its library."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    """Speaks to NOTIFY_SOCKET, which is taken out of `environ` so that no child does; nothing without it.

    interval: seconds between two `beat`s that are sent, half of what systemd allows; None when it wants none.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        allowed, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        ours = self._socket is not None and allowed.isdecimal() and pid in ("", str(os.getpid()))
        self.interval = int(allowed) / 2e6 if ours and int(allowed) else None
        self._next = 0.0
        self._ready = False
        self._status = ""

    def ready(self) -> None:
        """It serves; told once."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    def beat(self, now: float, healthy: Callable[[], bool]) -> None:
        """It lives, if `healthy` says so when it is asked; at most once an `interval`. now: monotonic seconds."""
        if self.interval is not None and now >= self._next and healthy():
            self._next = now + self.interval
            self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; sent when it has changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _tell(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError as error:  # it does not listen now; it ends a service that it should have heard
            log.debug("systemd was not told %s: %s", state, error)
