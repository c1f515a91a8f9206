"""Letters as people and machines see them. What a message holds is escaped: it cannot steer a terminal."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from kworker.dlq.groups import Group
from kworker.dlq.letter import Letter
from kworker.dlq.payload import Payload
from kworker.terminal import columns, printable

_HEAD = ("COUNT", "FIRST SEEN", "LAST SEEN", "TASK", "REASON", "ERROR", "FINGERPRINT", "SAMPLE", "MESSAGE")
_MOST_MESSAGE = 80
_MOST_CELL = 60
_MOST_PAYLOAD = 100_000
_NONE = "-"
_LINES = "\n\t"  # that text of several lines keeps


def instant(milliseconds: int) -> str:
    """A time in UTC, or '-' for what is none."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return _NONE


def table(groups: Sequence[Group], *, resolved: bool) -> list[str]:
    """Groups as lines in columns; `resolved` adds how many of each are."""
    head = ("COUNT", "RESOLVED", *_HEAD[1:]) if resolved else _HEAD
    return columns([head, *(_row(group, resolved) for group in groups)], right=range(2 if resolved else 1))


def _row(group: Group, resolved: bool) -> tuple[str, ...]:
    return (
        str(group.count),
        *((str(group.resolved),) if resolved else ()),
        instant(group.first_seen),
        instant(group.last_seen),
        *(_cell(text, _MOST_CELL) for text in (group.task, group.reason, group.error, group.fingerprint)),
        group.sample,
        _cell(group.message, _MOST_MESSAGE),
    )


def _cell(text: str, most: int) -> str:
    shown = printable(text)
    return (shown if len(shown) <= most else shown[: most - 3] + "...") or _NONE


def summary(letter: Letter) -> str:
    """One letter on one line."""
    texts = (letter.task, letter.reason, letter.error, letter.id)
    return f"{letter.place.argument}  {'  '.join(_cell(text, _MOST_CELL) for text in texts)}"


def described(letter: Letter, payload: Payload, resolved: bool) -> Iterator[str]:
    """One letter, all of it, as lines."""
    size = len(letter.value or b"")
    yield from _told("letter", f"{letter.place.argument}, {'resolved' if resolved else 'unresolved'}")
    yield from _told("origin", letter.about.get("origin", _NONE))
    yield from _told("task", f"{letter.task or _NONE}, id {letter.id or _NONE}")
    yield from _told("reason", letter.reason or "none: no worker wrote this record")
    yield from _told("error", f"{letter.error}: {letter.message}" if letter.error else letter.message or _NONE)
    yield from _told("fingerprint", letter.fingerprint or _NONE)
    first = instant(letter.number("first-seen")) if "first-seen" in letter.about else _NONE
    attempts = letter.about.get("attempts", _NONE)
    yield from _told("attempts", f"{attempts}, first seen {first}, failed {instant(letter.failed_at)}")
    yield from _told("by", f"group {letter.about.get('group', _NONE)}, worker {letter.about.get('worker', _NONE)}")
    yield from _told("replayed", str(letter.replays))
    yield from _told("key", "null" if letter.key is None else _bytes(letter.key))
    for name, value in letter.headers:
        yield from _told("header", f"{name}: {'null' if value is None else _bytes(value)}")
    if letter.truncated is not None:
        whole = f"{letter.truncated} bytes, at {letter.about.get('origin', 'an unknown place')} if it is still there"
        yield from _told("value", f"cut, with what was too long of key and headers; the whole is {whole}")
    else:
        yield from _told("value", payload.kind if size == 0 else f"{payload.kind}, {size} bytes")
    if payload.note:
        yield from _told("note", payload.note)
    if payload.text:
        text = printable(payload.text[:_MOST_PAYLOAD], _LINES)
        yield text if len(payload.text) <= _MOST_PAYLOAD else f"{text}\n... {size} bytes in all: --raw writes them"
    if stack := letter.about.get("error-stack", ""):
        yield from _told("stack", "")
        yield printable(stack.rstrip(), _LINES)


def _told(what: str, text: str) -> Iterator[str]:
    yield f"{what:<11} {printable(text)}".rstrip()


def _bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return repr(value)


def letter_as_json(letter: Letter, payload: Payload, resolved: bool) -> dict[str, Any]:
    """One letter for machines. Key, value and headers are null, text, or base64 of what is no
    UTF-8; `payload` is there when the value is JSON, or Avro that can be read."""
    shown: dict[str, Any] = {
        "place": letter.place.argument,
        "resolved": resolved,
        "timestamp": letter.timestamp,
        "origin": letter.about.get("origin"),
        "task": letter.task,
        "id": letter.id,
        "reason": letter.reason,
        "error": {"type": letter.error, "message": letter.message, "stack": letter.about.get("error-stack", "")},
        "fingerprint": letter.fingerprint,
        "attempts": letter.number("attempts"),
        "first_seen": letter.number("first-seen"),
        "failed_at": letter.failed_at,
        "group": letter.about.get("group"),
        "worker": letter.about.get("worker"),
        "replays": letter.replays,
        "truncated": letter.truncated,
        "key": _as_json(letter.key),
        "headers": [{"name": name, "value": _as_json(value)} for name, value in letter.headers],
        "value": _as_json(letter.value),
        "kind": payload.kind,
    }
    if payload.json:
        shown["payload"] = msgspec.Raw(payload.json.encode())
    if payload.note:
        shown["note"] = payload.note
    return shown


def _as_json(value: bytes | None) -> dict[str, str] | None:
    if value is None:
        return None
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
