"""What runs in a child process: one task at a time, from the worker's socket, until that ends.

Promises: a task begins only with its token; what has ended is reported at once unless it was a plain success, of which
several may travel together; SIGTERM ends the running task from within, as an exception, and then the child. Whatever a
task does to this process, the worker learns its end from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import math
import os
import reprlib
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import msgspec

from kworker.errors import PluginError
from kworker.executors.base import Runnable, execute, outcome_of, publication, text_of
from kworker.executors.messages import (
    LARGEST,
    RESERVED,
    TOKEN,
    Beginning,
    Broken,
    Ended,
    Given,
    Limits,
    Line,
    Loaded,
    Message,
    Ready,
    Reports,
    Successes,
    encodable,
    pack_message,
    read_given,
)
from kworker.plugin import Context
from kworker.task import SUCCESS, ErrorInfo, Failed, Success

TOLD = "kworker.executors.child.Told"
"""The type, as errors name it, of what ends a task that was told to."""

_TOGETHER = 0.005  # seconds for which plain successes may wait for each other
_MOST_LINES = 1000  # log lines of one task
_LONGEST_TEXT = 8_000


class Told(BaseException):
    """Raised within a task whose child was told to end; no `except Exception` catches it."""


class Fds(NamedTuple):
    """What a child is born with: its socket, its tokens, and the pipe for what it prints."""

    socket: int
    tokens: int
    output: int


def live(loaded: Loaded | Exception, beginning: Beginning, fds: Fds) -> NoReturn:
    """Be a child, in a process that was just forked for it; `loaded`: the plugins, or why there are none."""
    for target in (1, 2):
        os.dup2(fds.output, target)
    os.close(fds.output)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    child = _Child(fds)
    child.log_here(beginning.log_level)
    code = 1
    try:
        if isinstance(loaded, Exception):
            raise loaded
        _limit(beginning.limits)
        loaded.setup()
        child.say(Ready())
        child.serve({name: _plain(runnable) for name, runnable in loaded.tasks.items()}, beginning.limits.cpu)
        loaded.teardown()
        code = 0
    except PluginError as error:
        child.say(Broken(encodable(str(error))))
    except BaseException as error:
        child.say(Broken(encodable(f"{type(error).__name__}: {text_of(error)}")))
    finally:
        _flush_streams()
        os._exit(code)  # what the template registered to be done at its exit is not to be done here


class _Child:
    """The serving half. `_interruptible`: SIGTERM may raise here and now."""

    def __init__(self, fds: Fds) -> None:
        self._copied = False
        os.register_at_fork(after_in_child=self._was_copied)
        self._thread = threading.get_ident()
        self._socket = socket.socket(fileno=fds.socket)
        self._read = self._socket.makefile("rb", buffering=1 << 16).read
        self._tokens = fds.tokens
        self._token = 0
        self._sending = threading.Lock()
        self._ended: list[Ended | Successes] = []
        self._flushed = 0.0
        self._given: Given | None = None
        self._context: Context | None = None
        self._leaving = False
        self._interruptible = False
        signal.signal(signal.SIGTERM, self._told)

    def serve(self, tasks: dict[str, Runnable], cpu: float | None) -> None:
        """Run what comes, until the worker closes the socket or the child has to leave."""
        while not self._leaving and (batch := self._next()) is not None:
            for given in batch:
                if self._token < given.number:
                    self._token = self._take_token()
                    if not self._token:
                        break  # what is left of these was taken back
                if self._token != given.number:
                    continue  # taken back, and later ones were given
                if cpu is not None:
                    _limit_cpu(cpu)
                self._run(given, tasks[given.task.name])
                if self._leaving:
                    break
            self._flush()

    def _run(self, given: Given, runnable: Runnable) -> None:
        self._given, self._context = given, None
        timeout = runnable.spec.timeout
        since = time.monotonic()
        try:
            self._interruptible = True
            deadline = since + timeout if timeout else None
            outcome = execute(given, runnable, deadline, publication, self._began)
            self._interruptible = False
        except Told as told:  # it came before the function was called, or after it had returned
            outcome = outcome_of(told)
        ended = time.monotonic()
        self._given = None
        if self._copied:
            os._exit(0)  # the task forked and came back twice: this is the copy
        if isinstance(outcome, Failed) and outcome.error.type == "MemoryError":
            self._leaving = True  # what is left of the heap may not do for the next one
        if outcome is not SUCCESS:
            self._ended.append(Ended(given.number, since, ended, outcome))
            self._flush()
            return
        row = self._ended[-1] if self._ended else None
        if isinstance(row, Successes) and given.number == row.number + len(row.ended):
            row.ended.append(ended)
        else:
            self._ended.append(Successes(given.number, since, [ended]))
        if ended - self._flushed > _TOGETHER:
            self._flush()

    def _next(self) -> list[Given] | None:
        try:
            self._interruptible = True
            batch = read_given(self._read)
            self._interruptible = False
        except Told:
            return None
        return batch

    def _take_token(self) -> int:
        """The number of the next task that may begin; 0: none."""
        try:
            token = os.read(self._tokens, TOKEN)
        except BlockingIOError:
            return 0
        return int.from_bytes(token, sys.byteorder)

    def _was_copied(self) -> None:
        self._copied = True
        self._sending = threading.Lock()  # another thread, which the copy has not, may have held it

    def _began(self, context: Context) -> None:
        self._context = context

    def _told(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM. Order: what it sets is looked at wherever it may not raise."""
        self._leaving = True
        if self._context is not None:
            self._context.cancel()
        if self._interruptible:
            self._interruptible = False
            raise Told("it was told to end")

    # -- to the worker ------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._ended or self._leaving:
            _flush_streams()
            self.say(Reports(self._ended, self._leaving))
            self._ended = []
            self._flushed = time.monotonic()

    def say(self, message: Message) -> None:
        """Send a message; what cannot travel of it does so as text."""
        try:
            frame = pack_message(message)
        except Exception:  # a plugin's result may fail to be encoded in any way
            frame = b""
        if not frame or len(frame) > LARGEST:
            assert isinstance(message, Reports)
            frame = pack_message(Reports([_sendable(ended) for ended in message.ended], message.last))
        with self._whole(), self._sending:
            if not self._copied:
                self._socket.sendall(frame)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Nothing may end the task in the middle of a frame."""
        if threading.get_ident() != self._thread:  # signals are the main thread's
            yield
            return
        before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            if before and self._leaving:
                raise Told("it was told to end")
            self._interruptible = before

    def log_here(self, level: int) -> None:
        """Send what is logged in this process to the worker's log."""
        root = logging.getLogger()
        root.handlers = [_Forward(self)]
        root.setLevel(level)
        logging.captureWarnings(True)

    def line(self, record: logging.LogRecord) -> Line:
        """A log record as a message that names its task."""
        given = self._given
        fields = {name: _field(value) for name, value in vars(record).items() if name not in RESERVED}
        if given is not None:
            fields = {"task": given.task.name, "id": encodable(given.task.id), **fields}
        if record.exc_info:
            fields["stack"] = encodable(logging.Formatter().formatException(record.exc_info)[-_LONGEST_TEXT:])
        try:
            text = record.getMessage()
        except Exception as error:  # the caller's own mistake; the line is still worth having
            text = f"{record.msg} (its arguments cannot be shown: {type(error).__name__})"
        return Line(record.levelno, encodable(record.name[:200]), encodable(text[:_LONGEST_TEXT]), fields)

    @property
    def number(self) -> int:
        """The number of the running task; 0: none runs."""
        return self._given.number if self._given is not None else 0


class _Forward(logging.Handler):
    """Log records to the worker; of one task so many, and then a word about the others."""

    def __init__(self, child: _Child) -> None:
        super().__init__()
        self._child = child
        self._of = 0
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        if self._of != self._child.number:
            self._of, self._count = self._child.number, 0
        self._count += 1
        if self._count > _MOST_LINES:
            if self._count > _MOST_LINES + 1:
                return
            record = logging.makeLogRecord({"name": record.name, "levelno": logging.WARNING})
            record.msg = f"more than {_MOST_LINES} lines of this task: the others are left out"
        try:
            self._child.say(self._child.line(record))
        except OSError:
            return  # the worker is gone, and so is this process, any moment


def _field(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    try:
        return encodable(str(value)[:_LONGEST_TEXT])
    except Exception as error:  # the plugin's object; the line is worth more than this field
        return f"({type(value).__name__} cannot be shown: {type(error).__name__})"


def _sendable(ended: Ended | Successes) -> Ended | Successes:
    """The same report, with text for what cannot travel."""
    if isinstance(ended, Successes):
        return ended
    fault = _fault(ended)
    if not fault:
        return ended
    outcome = ended.outcome
    if isinstance(outcome, Success):
        outcome = Success(f"({type(outcome.result).__name__}, {fault}: {_shown(outcome.result)})", outcome.publish)
    else:
        error = ErrorInfo(*(encodable(text) for text in msgspec.structs.astuple(outcome.error)))
        outcome = msgspec.structs.replace(outcome, error=error)
    ended = msgspec.structs.replace(ended, outcome=outcome)
    if fault := _fault(ended):
        ended.outcome = Failed(
            ErrorInfo("unsendable", f"what it published or raised cannot leave its process: {fault}")
        )
    return ended


def _fault(ended: Ended) -> str:
    """Why a report cannot travel; empty when it can."""
    try:
        size = len(pack_message(Reports([ended])))
    except Exception as error:  # see `say`
        return f"not to be encoded ({type(error).__name__})"
    return "" if size <= LARGEST else f"{size} bytes"


def _shown(result: object) -> str:
    """The beginning of a result; total, whatever its `__repr__` does."""
    try:
        return encodable(reprlib.repr(result)[:_LONGEST_TEXT])
    except BaseException as error:  # SystemExit is a plugin's too
        return f"__repr__ raised {type(error).__name__}"


def _plain(runnable: Runnable) -> Runnable:
    """A task as a plain function: an async one runs in an event loop of this child's own."""
    if not inspect.iscoroutinefunction(runnable.spec.function):
        return runnable
    function: Callable[..., Any] = runnable.spec.function
    runner = asyncio.Runner()

    def run(*arguments: object, **keywords: object) -> object:
        return runner.run(function(*arguments, **keywords))

    return _Plain(replace(runnable.spec, function=run), runnable.signature)


class _Plain(NamedTuple):
    spec: Any
    signature: Any


def _limit(limits: Limits) -> None:
    for what, most in ((resource.RLIMIT_AS, limits.memory), (resource.RLIMIT_NOFILE, limits.files)):
        if most is not None:
            hard = resource.getrlimit(what)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (most, most))


def _limit_cpu(seconds: float) -> None:
    """So much more than was used so far; then the kernel sends SIGXCPU."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plugin may have closed or replaced it
            stream.flush()
