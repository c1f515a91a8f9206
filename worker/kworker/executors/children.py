"""One child process as the worker sees it: what it was given, what came of it, what it prints.

A task that was given may begin only with its token: eight bytes with its number, in a pipe that both the worker and
the child read. Whoever reads a token has it, and the kernel gives it to one of both. So several small tasks can be
given at once, and still the worker knows at any time which have begun, and takes back the others; of those that have
begun, all but the last have ended, and without a report they were plain successes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.executors.child import Fds
from kworker.executors.messages import TOKEN, Given, Message, Messages, pack_given

_READ = 1 << 16
_MOST_READS = 64
_ALL = 1024  # reads that empty a socket, unless it is filled for ever
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_OUTPUT = 1 << 16
_MOST_LINES = 1000
_TAIL = 4000


class Recycling(Struct, frozen=True):
    """When a child is replaced though it lives: after so many tasks, above so many bytes resident; 0 is never."""

    tasks: int = 0
    memory: int = 0


class Child:
    """See the module. Owned by one thread; others only read `slot`, `pid`, `entries`, `progress` and `served`.

    number: its own, never used again. entries: what it was given and has not reported, in order. progress: when it
    began, or last reported something (monotonic seconds). ready: its plugins are set up; broken: or why they are not.
    told: why it was told to end, and when. finished: it begins nothing more. closed: when its socket was found closed.
    nonsense: what it said that is no message. leaving: when the socket was closed here, so that it goes.
    """

    def __init__(self, number: int, selector: BaseSelector, now: float, recycling: Recycling) -> None:
        self.number = number
        self.slot = f"process-{number}"
        self.pid = 0
        self.born = self.progress = now
        self.ready = False
        self.broken = ""
        self.served = 0
        self.entries: deque[tuple[int, Entry]] = deque()
        self.told = ""
        self.told_at = 0.0
        self.killed = False
        self.finished = False
        self.closed: float | None = None
        self.nonsense = ""
        self.leaving: float | None = None
        self.output = Output()
        self._next = 1
        self._messages = Messages()
        self._outbox = bytearray()
        self._selector = selector
        self._recycling = recycling
        self._socket, self._theirs = socket.socketpair()
        self._tokens, self._tokens_in = os.pipe()
        self._printed, self._printing = os.pipe()
        self._socket.setblocking(False)
        os.set_blocking(self._tokens, False)
        os.set_blocking(self._printed, False)

    def attach(self, said: Callable[[], None], printed: Callable[[], None]) -> None:
        """Have these called, by whoever serves the selector, when there is something to receive, or to read."""
        self._selector.register(self._socket, EVENT_READ, said)
        self._selector.register(self._printed, EVENT_READ, printed)

    @property
    def fds(self) -> Fds:
        """What the process is to be born with."""
        return Fds(self._theirs.fileno(), self._tokens, self._printing)

    def was_born(self) -> None:
        """The process has its own copies of `fds`."""
        self._theirs.close()
        os.close(self._printing)

    @property
    def takes_more(self) -> bool:
        """Whether it may be given tasks."""
        return self.ready and self.stays and not self.told and self.closed is None

    @property
    def stays(self) -> bool:
        """Whether it is one of those that serve: it is not about to go by its own or the worker's wish."""
        return self.leaving is None and not self.finished

    @property
    def worn(self) -> bool:
        """Whether it has run as many tasks as it may."""
        return 0 < self._recycling.tasks <= self.served

    @property
    def large(self) -> bool:
        """Whether it takes more memory than it may. Asks the system."""
        return 0 < self._recycling.memory < self.resident()

    def described(self) -> dict[str, object]:
        """For status pages."""
        return {"slot": self.slot, "pid": self.pid, "ready": self.ready, "tasks": self.served}

    # -- tasks --------------------------------------------------------------------------------------------------------

    def give(self, entries: Sequence[Entry], now: float) -> None:
        """Have it run these after what it has."""
        if not self.entries:
            self.progress = now
        first, self._next = self._next, self._next + len(entries)
        numbered = list(enumerate(entries, first))
        self.entries.extend(numbered)
        # Order: the tokens first, or the child would find none and take the tasks for taken back.
        os.write(self._tokens_in, array("Q", range(first, self._next)))
        self.send(pack_given([Given(number, entry.attempt, entry.task) for number, entry in numbered]))

    def send(self, data: bytes = b"") -> None:
        """Send this and what could not be sent before, as far as it goes now."""
        self._outbox += data
        if not self._outbox or self.closed is not None:
            return
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._outbox.clear()  # it is gone, as reading tells
        key = self._selector.get_key(self._socket)
        wanted = EVENT_READ | EVENT_WRITE if self._outbox else EVENT_READ
        if key.events != wanted:
            self._selector.modify(self._socket, wanted, key.data)

    def take_back(self) -> list[Entry]:
        """What has not begun, which it will not begin any more; in order."""
        try:
            count = len(os.read(self._tokens, _READ)) // TOKEN
        except BlockingIOError:
            return []
        taken = [self.entries.pop()[1] for _ in range(count)]
        taken.reverse()
        return taken

    def reported(self, number: int, count: int = 1) -> list[Entry]:
        """The entries that reports of so many numbers from this one on are of, but for those not open any more."""
        entries, found = self.entries, []
        for expected in range(number, number + count):
            if entries and entries[0][0] == expected:
                found.append(entries.popleft()[1])
        self.served += len(found)
        return found

    def receive(self, *, all: bool = False) -> Iterator[Message]:
        """What it says, until there is nothing now, or for ever: then it is `closed`. Without `all` not too much."""
        for _ in range(_ALL if all else _MOST_READS):
            if self.closed is not None:
                return
            try:
                data = self._socket.recv(_READ)
                if not data:
                    break
                yield from self._messages.feed(data)
                if len(data) < _READ and not all:
                    return  # the selector tells when there is more
            except BlockingIOError:
                return
            except ValueError as error:
                self.nonsense = str(error)
                break
            except OSError:
                break
        else:
            return
        if self.closed is None:
            self.closed = time.monotonic()
            self._selector.unregister(self._socket)

    # -- the process --------------------------------------------------------------------------------------------------

    def read_output(self) -> bytes:
        """What it has printed; empty when there is nothing now, or for ever."""
        try:
            data = os.read(self._printed, _READ)
        except BlockingIOError:
            return b""
        if not data and self._printed in self._selector.get_map():
            self._selector.unregister(self._printed)
        return data

    def resident(self) -> int:
        """Bytes of its resident memory; 0 where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:  # noqa: PTH123 - half the cost, and often
                return int(file.read().split()[1]) * _PAGE
        except OSError:
            return 0

    def let_go(self, now: float) -> None:
        """Have it end when it has read all it was given: no more comes."""
        self.leaving = now
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Forget it."""
        for file in (self._socket, self._printed):
            if file in self._selector.get_map():
                self._selector.unregister(file)
        self._socket.close()
        for fd in (self._tokens, self._tokens_in, self._printed):
            os.close(fd)


class Output:
    """What a child prints, cut into lines, so much for each task. `tail`: the end of it, for the record of a crash."""

    def __init__(self) -> None:
        self.tail = b""
        self._line = b""
        self._bytes = 0
        self._lines = 0
        self._left_out = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now and not too many."""
        self.tail = (self.tail + data)[-_TAIL:]
        room = max(0, _MOST_OUTPUT - self._bytes)
        self._bytes += len(data)
        self._left_out += max(0, len(data) - room)
        *lines, self._line = (self._line + data[:room]).split(b"\n")
        return self._texts(lines)

    @property
    def used(self) -> bool:
        """Whether something was printed since the last `end`."""
        return self._bytes > 0

    def end(self) -> list[str]:
        """A task has ended: the line that it did not end, and how much was left out. The next one starts anew."""
        texts = self._texts([self._line] if self._line else [])
        if self._left_out:
            texts.append(f"({self._left_out} bytes more are left out)")
        self.tail = self._line = b""
        self._bytes = self._lines = self._left_out = 0
        return texts

    def _texts(self, lines: list[bytes]) -> list[str]:
        kept = lines[: max(0, _MOST_LINES - self._lines)]
        self._lines += len(lines)
        self._left_out += sum(len(line) + 1 for line in lines[len(kept) :])
        return [line.decode("utf-8", "backslashreplace") for line in kept]
