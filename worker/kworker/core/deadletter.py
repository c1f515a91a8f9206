"""A dead letter: the original key, value and headers byte for byte, plus headers that say why (WIRE.md)."""

from __future__ import annotations

import hashlib
import re

from kworker.core.entry import Entry
from kworker.task import ErrorInfo, Headers, Publication, Reason

FULL, SHORT, CUT = 0, 1, 2
"""How much of a dead letter is left: all, without the error's stack, and without the value as well."""

_CAPS = {FULL: (200, 2_000, 8_000), SHORT: (100, 200, 0), CUT: (100, 200, 0)}
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+")


def dead_letter(
    entry: Entry,
    reason: Reason,
    error: ErrorInfo,
    *,
    at: float,
    group: str,
    worker: str,
    level: int = FULL,
) -> Publication:
    """Build the record for the dead-letter topic. `at`: now, in seconds since the epoch.

    `level` makes it smaller for a broker that refused the size: error headers shrink first; the value is cut only
    in the last step, with a key or headers that are huge, marked `kworker-truncated` beside the origin, where the whole
    record still is.
    """
    task = entry.task
    type_cap, message_cap, stack_cap = _CAPS[level]
    headers: Headers = list(task.headers)
    headers += [
        ("kworker-reason", reason.encode()),
        ("kworker-error-type", _capped(error.type, type_cap)),
        ("kworker-error-message", _capped(error.message, message_cap)),
    ]
    if stack_cap and error.stack:
        headers.append(("kworker-error-stack", _capped(error.stack, stack_cap)))
    headers += [
        ("kworker-error-fingerprint", fingerprint(reason, error).encode()),
        ("kworker-attempts", b"%d" % (entry.attempt if entry.run else entry.attempt - 1)),
        ("kworker-first-seen", b"%d" % (entry.seen * 1000)),
        ("kworker-failed-at", b"%d" % (at * 1000)),
        ("kworker-origin", f"{task.topic}/{task.partition}/{task.offset}".encode()),
        ("kworker-group", group.encode()),
        ("kworker-worker", worker.encode()),
    ]
    key, value = task.key, task.value
    if level == CUT:
        headers.append(("kworker-truncated", b"%d" % len(value or b"")))
        key, value = key and key[:_MOST_KEPT], b""
        kept = _MOST_KEPT
        original = []
        for name, content in task.headers:
            kept -= len(name) + len(content or b"")
            if kept < 0:
                break
            original.append((name, content))
        headers[: len(task.headers)] = original
    return Publication(entry.dead_letter_topic, key, value, headers)


_MOST_KEPT = 16_384  # bytes of the key, and of the original headers, in the last step


def fingerprint(reason: Reason, error: ErrorInfo) -> str:
    """The same for errors that differ only in numbers and addresses: what `dlq ls` groups by."""
    last_lines = "\n".join(error.stack.splitlines()[-6:]) if error.stack else error.message[:200]
    text = f"{reason}\n{error.type}\n{_NUMBERS.sub('#', last_lines)}"
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _capped(text: str, most: int) -> bytes:
    data = text[:most].encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[:most].decode("utf-8", "ignore").encode()
