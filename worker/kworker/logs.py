"""Log lines to standard error, without ever holding up who logs.

Lines pass a bounded queue to a thread of their own; when that thread cannot write (a full pipe, a stopped terminal, a
full disk) and the queue is full, lines are dropped and counted, and the count is logged when writing works again.
Console lines are for people: what a message brought (line breaks, escape sequences) cannot forge or colour a line.
JSON lines are for machines: one object a line, `extra` fields beside the message.
"""

from __future__ import annotations

import copy
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging.handlers import QueueHandler
from typing import Literal

from kworker.errors import KworkerError

QUEUE_LIMIT = 10_000
"""Lines that wait to be written before lines are dropped."""

FLUSH_TIMEOUT = 1.0
"""Seconds that a stop waits for the lines that are left."""

Entry = logging.LogRecord

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PLAIN = re.compile(r"[^\s\"'=]+")


def start(
    format: Literal["console", "json"] = "console",
    level: str = "info",
    fd: int = 2,
    fields: Mapping[str, object] | None = None,
) -> Callable[[], None]:
    """Send the logs of this process to the file descriptor `fd`; returns what writes the rest and ends it.

    fields: what each line has beside its own. Raises KworkerError when logs were started already and not stopped.
    """
    global _writer
    if _writer is not None:
        raise KworkerError("logs were started already")
    writer = _writer = _Writer(_json() if format == "json" else Console(), fd)
    writer.handler.fields = fields or {}
    root = logging.getLogger()
    before = (root.handlers, root.level)
    root.handlers = [writer.handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    writer.start()

    def stop() -> None:
        global _writer
        logging.captureWarnings(False)
        root.handlers, level = before
        root.setLevel(level)
        flush()
        _writer = None
        writer.ended = True
        with suppress(queue.Full):  # then it is not waiting for a line, but to write one
            writer.lines.put_nowait(threading.Event())

    return stop


def flush(timeout: float = FLUSH_TIMEOUT) -> bool:
    """Wait until what was logged is written, `timeout` seconds at most; returns whether it is. For before os._exit."""
    if _writer is None:
        return True
    written = threading.Event()
    deadline = time.monotonic() + timeout
    try:
        _writer.lines.put(written, timeout=timeout)
    except queue.Full:
        return False
    return written.wait(max(0.0, deadline - time.monotonic()))


def dropped() -> int:
    """Lines that were dropped since logs were started, or failed to be written."""
    return 0 if _writer is None else _writer.handler.dropped + _writer.failed


class Console(logging.Formatter):
    """`time level message key=value ...`, one line; a traceback, or the field `stack`, follows indented."""

    default_msec_format = "%s.%03d"

    def format(self, record: Entry) -> str:
        """One record as text; control characters are escaped."""
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        stack = str(fields.pop("stack", ""))
        extra = [f"{key}={_quoted(value)}" for key, value in fields.items()]
        source = [] if record.name.startswith("kworker") else [f"[{record.name}]"]
        level = f"{record.levelname.lower():<7}"
        line = " ".join([self.formatTime(record), level, *source, _escaped(record.getMessage()), *extra])
        trace = stack or record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        return "\n".join([line, *(f"    {_escaped(part)}" for part in trace.splitlines())])


class Repeated(logging.Filter):
    """Lets a message through once in `seconds`; the next one that passes says in `repeated` how many did not.

    Messages are told apart by logger, level and text before its arguments are filled in.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: Entry) -> bool:
        """Whether the record passes."""
        now = self._clock()
        key = (record.name, record.levelno, str(record.msg))
        if len(self._seen) > 1000:  # texts that are never the same must not fill memory
            self._seen.clear()
        since, held = self._seen.get(key, (-self._seconds, 0))
        if now - since < self._seconds:
            self._seen[key] = [since, held + 1]
            return False
        self._seen[key] = [now, 0]
        if held:
            record.repeated = int(held)
        return True


class _Enqueue(QueueHandler):
    """Puts records into the queue, with their arguments filled in; never waits."""

    dropped = 0  # changed under the handler's lock only
    fields: Mapping[str, object] = {}

    def prepare(self, record: Entry) -> Entry:
        """Fill in what may change or cannot wait; the traceback stays apart from the message."""
        record = copy.copy(record)
        try:
            record.msg = record.getMessage()
        except Exception as error:  # the caller's own mistake, or a plugin's object; the line is still worth having
            record.msg = f"{record.msg} (its arguments cannot be shown: {type(error).__name__})"
        record.args = None
        vars(record).update(self.fields)
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return record

    def handleError(self, record: Entry) -> None:
        """Count it: to print it, as logging does, could block."""
        self.dropped += 1


class _Writer(threading.Thread):
    """Takes lines from the queue and writes them."""

    def __init__(self, formatter: logging.Formatter, fd: int) -> None:
        super().__init__(name="kworker-logs", daemon=True)
        self.lines: queue.Queue[Entry | threading.Event] = queue.Queue(QUEUE_LIMIT)
        self.handler = _Enqueue(self.lines)
        self.failed = 0
        self.ended = False
        self._formatter = formatter
        self._fd = fd

    def run(self) -> None:
        told = 0
        while not self.ended:
            line = self.lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            lost = self.handler.dropped + self.failed - told
            if lost:
                notice = logging.LogRecord("kworker.logs", logging.WARNING, "", 0, "log lines were dropped", None, None)
                notice.dropped = lost
                told += lost if self._write(notice) else 0
            self.failed += not self._write(line)

    def _write(self, line: Entry) -> bool:
        try:
            data = (self._formatter.format(line) + "\n").encode("utf-8", "backslashreplace")
            while data:  # to the descriptor: sys.stderr has a lock, and an exit would wait for it, or abort
                data = data[os.write(self._fd, data) :]
        except Exception:  # the line is counted as dropped; there is nowhere to report it
            return False
        return True


_writer: _Writer | None = None


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "{levelname}{name}{message}",
        style="{",
        timestamp=True,
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "trace"},
        json_default=_text,
    )


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"({type(value).__name__} cannot be shown: {type(error).__name__})"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _quoted(value: object) -> str:
    text = _escaped(_text(value))
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'
