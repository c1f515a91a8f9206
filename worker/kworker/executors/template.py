"""The process that children are forked from: it has the plugins loaded, runs nothing, and has no threads of its own.

Forked, not spawned, so that a child that died is replaced within milliseconds; never from the worker, whose Kafka
client would not survive it (FACTS.md 12). Not multiprocessing's fork server: that one runs the program's `__main__`
again, is one for the whole process, and keeps how a child ended to itself.

Promises: the children's process groups are signalled and reaped here only, so that no signal reaches another process
that has got the number; when the worker is gone, however it went, every child and its group are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading

from kworker.executors.child import Fds, live
from kworker.executors.messages import Beginning, Loaded

RECORD = struct.Struct("<IIi")
"""verb, number of the child, and a value."""

START, SIGNAL, STARTED, EXITED = 1, 2, 3, 4
"""To the template: START (with the child's Fds), SIGNAL (value: the signal; minus it is for
the child alone, not for its process group). From it: STARTED (value: the pid),
EXITED (value: the exit code, or minus the signal)."""

SIZE = struct.Struct("<Q")

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main(control: int) -> None:
    """Be the template. control: the socket to the worker."""
    _die_with_parent(signal.SIGTERM)
    connection = socket.socket(fileno=control)
    beginning: Beginning = pickle.loads(_read(connection))  # from the worker that started this process
    logging.getLogger().addHandler(logging.NullHandler())  # the worker has said it all while it loaded the same
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # text streams
    loaded: Loaded | Exception
    try:
        loaded = beginning.load()
    except Exception as error:
        loaded = error  # each child says so
    if threading.active_count() > 1:
        print("a plugin starts a thread when it is imported, which no child has: start it in setup()", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # no child says it again
    gc.collect()
    gc.freeze()  # so that the children go on sharing these pages
    _Template(connection, beginning, loaded).serve()


class _Template:
    def __init__(self, connection: socket.socket, beginning: Beginning, loaded: Loaded | Exception) -> None:
        self._connection = connection
        self._beginning = beginning
        self._loaded = loaded
        self._children: dict[int, int] = {}  # number -> pid, which is the number of its process group too
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)
        self._ending = False

    def serve(self) -> None:
        """Do what the worker asks, until it is gone."""
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(ConnectionError):
            while not self._ending:
                readable, _, _ = select.select([self._connection.fileno(), self._woken], [], [])
                if self._woken in readable:
                    os.read(self._woken, 4096)
                    self._reap()
                if self._connection.fileno() in readable and not self._obey():
                    break
        for pid in self._children.values():
            _kill_group(pid, signal.SIGKILL)
        os._exit(0)

    def _end(self, number: int, frame: object) -> None:
        self._ending = True

    def _obey(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._connection, RECORD.size, len(Fds._fields))
        if not data:
            return False
        while len(data) < RECORD.size:
            data += self._connection.recv(RECORD.size - len(data))
        verb, number, value = RECORD.unpack(data)
        if verb == START:
            self._fork(number, Fds(*fds))
        elif number in self._children and value > 0:
            _kill_group(self._children[number], value)
        elif number in self._children:
            os.kill(self._children[number], -value)
        return True

    def _fork(self, number: int, fds: Fds) -> None:
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._be_born(template, fds)
            finally:
                os._exit(1)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # done by both: whoever is first
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        self._children[number] = pid
        self._say(STARTED, number, pid)

    def _be_born(self, template: int, fds: Fds) -> None:
        os.setpgid(0, 0)  # the template has no terminal, so this one has none either
        _die_with_parent(signal.SIGKILL)
        if os.getppid() != template:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._connection.close()
        os.close(self._woken)
        os.close(self._wake)
        live(self._loaded, self._beginning, fds)

    def _reap(self) -> None:
        numbers = {pid: number for number, pid in self._children.items()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in numbers:
                _kill_group(pid, signal.SIGKILL)  # what it left behind
                del self._children[numbers[pid]]
                self._say(EXITED, numbers[pid], os.waitstatus_to_exitcode(status))

    def _say(self, verb: int, number: int, value: int) -> None:
        self._connection.sendall(RECORD.pack(verb, number, value))


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _die_with_parent(number: int) -> None:
    """Have the kernel send this signal when the thread that started this process ends. Linux only."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)


def _read(connection: socket.socket) -> bytes:
    with connection.makefile("rb", buffering=0) as file:
        size = SIZE.unpack(file.read(SIZE.size) or b"")[0]
        data = b""
        while len(data) < size:
            part = file.read(size - len(data))
            if not part:
                raise EOFError("the worker ended while it started this process")
            data += part
        return data
