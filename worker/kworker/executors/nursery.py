"""The worker's side of the template: it starts the process, has children born, and hears how they end."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys

from kworker.executors.child import Fds
from kworker.executors.messages import Beginning
from kworker.executors.template import EXITED, RECORD, SIGNAL, SIZE, START, STARTED

__all__ = ["EXITED", "STARTED", "Nursery"]

_BOOT = (
    "import sys; control, *sys.path = sys.argv[1:]; sys.argv[1:] = []; "
    "from kworker.executors.template import main; main(int(control))"
)


class Nursery:
    """A running template. Start it in a thread that lasts: the kernel ends it with that thread.

    socket: readable when there is something to `hear`. output: what the template itself prints.
    """

    def __init__(self, beginning: Beginning) -> None:
        self.socket, theirs = socket.socketpair()
        self.output, printed = os.pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,  # Ctrl-C is the worker's
            )
        os.close(printed)
        os.set_blocking(self.output, False)
        self._heard = b""
        # By its socket: an argument would show the plugins' settings to everybody.
        data = pickle.dumps(beginning, protocol=5)
        with contextlib.suppress(ConnectionError):  # it died at once: `hear` tells
            self.socket.sendall(SIZE.pack(len(data)) + data)
        self.socket.setblocking(False)

    @property
    def pid(self) -> int:
        """The template's process id."""
        return self._process.pid

    def bear(self, number: int, fds: Fds) -> None:
        """Start a child with these; they are the caller's to close. The answer is STARTED."""
        with contextlib.suppress(OSError):  # it is gone: `hear` tells
            self.socket.setblocking(True)
            socket.send_fds(self.socket, [RECORD.pack(START, number, 0)], fds)
        self.socket.setblocking(False)

    def signal(self, number: int, signal: int) -> None:
        """Send a signal to a child and its process group, minus the signal to the child alone; nothing if it ended."""
        with contextlib.suppress(OSError):  # as above
            self.socket.setblocking(True)
            self.socket.sendall(RECORD.pack(SIGNAL, number, signal))
        self.socket.setblocking(False)

    def hear(self) -> list[tuple[int, int, int]] | None:
        """What came: (STARTED, number, pid) and (EXITED, number, exit code or minus the signal); None: it is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        data = self._heard + data
        whole = len(data) - len(data) % RECORD.size
        self._heard = data[whole:]
        return list(RECORD.iter_unpack(data[:whole]))

    def close(self, within: float) -> None:
        """End it, and with it what it still has of children."""
        self.socket.close()
        os.close(self.output)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(within)
