"""A message to publish: task, payload and attributes become a record by WIRE.md (CloudEvents 1.0, binary mode).

Pure: the id and the time are arguments. What a publisher gets wrong is found here, before anything is sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from kworker.schedules.moment import rfc3339
from kworker.task import Headers, Publication, Task

SOURCE = "kworker"
"""`ce_source` of what kworker publishes, unless a header says otherwise."""

# A name that the client cannot write must not reach it: there it raises in the worker's loop, or ends the process.
_WRITABLE = re.compile("[^\0\ud800-\udfff]*")
_OWN = {"ce_type": "task", "task": "task", "ce_id": "id", "ce_specversion": None}


def message(
    task: str,
    payload: object = None,
    *,
    topic: str,
    key: str | bytes | None = None,
    id: str,
    headers: Mapping[str, str | bytes] | None = None,
    now: float,
) -> Publication:
    """The record that asks for one run of `task`.

    payload: bytes travel as they are; None is a null value; anything else becomes JSON (msgspec's types: structs,
    dataclasses, datetimes, UUIDs ...; a msgspec.Raw is JSON text already). headers may replace `ce_source`, `ce_time`
    and, for bytes, `content-type`. now: seconds since the epoch.
    Raises ValueError, or TypeError for a payload of a type JSON cannot hold.
    """
    if not task or len(task) > 200 or not task.isprintable() or task.startswith("_"):
        raise ValueError(f"{task[:40]!r} is not a task name: 1 to 200 printable characters, no leading '_'")
    if not id:
        raise ValueError(f"cannot publish {task!r}: the id is empty; leave it out to get one made")
    _check_name(task, "topic", topic)
    value, content_type = _encode(f"cannot publish {task!r}: the payload", payload)
    attributes = _attributes(task, id, now)
    if content_type:
        attributes["content-type"] = content_type
    if headers:
        _check_headers(task, headers, content_type)
        attributes.update(headers)
    wire: Headers = [(name, _bytes(text, f"header {name!r}")) for name, text in attributes.items()]
    return Publication(topic=topic, key=None if key is None else _bytes(key, "the key"), value=value, headers=wire)


def result(task: Task, value: object, *, topic: str, now: float) -> Publication:
    """The record that answers `task` with what it returned: `ce_causationid` is the task's id, the key is the task's.

    value: as a payload. now: seconds since the epoch. Raises ValueError or TypeError for what JSON cannot hold.
    """
    content, content_type = _encode(f"the result of {task.name!r}", value)
    attributes = _attributes(f"{task.name}.result", f"{task.id}/result", now) | {"ce_causationid": task.id}
    if content_type:
        attributes["content-type"] = content_type
    headers: Headers = [(name, _bytes(text, f"header {name!r}")) for name, text in attributes.items()]
    return Publication(topic=topic, key=task.key, value=content, headers=headers)


def _attributes(kind: str, id: str, now: float) -> dict[str, str | bytes]:
    return {
        "ce_type": kind,
        "ce_id": id,
        "ce_source": SOURCE,
        "ce_specversion": "1.0",
        "ce_time": rfc3339(now, precision="milliseconds"),
    }


def _encode(what: str, payload: object) -> tuple[bytes | None, str]:
    if payload is None:
        return None, ""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), "application/octet-stream"
    try:
        value = msgspec.json.encode(payload)
    except TypeError as error:
        raise TypeError(f"{what} does not fit into JSON: {error}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{what} does not fit into JSON: {error}") from error
    # msgspec writes NaN and infinity as null: what the task would get is not what was published.
    if b"null" in value and not isinstance(payload, msgspec.Raw) and _holds_no_number(msgspec.to_builtins(payload)):
        raise ValueError(f"{what} holds NaN or infinity, which JSON cannot hold")
    return value, "application/json"


def _holds_no_number(builtins: object) -> bool:
    waiting = [builtins]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return True
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            waiting.extend(item)
    return False


def _check_headers(task: str, headers: Mapping[str, str | bytes], content_type: str) -> None:
    for name in headers:
        _check_name(task, "header", name)
        if name in _OWN:
            own = _OWN[name]
            hint = f"; give it as {own}=" if own else ""
            raise ValueError(f"cannot publish {task!r}: kworker sets the header {name!r} itself{hint}")
        if not name or name.startswith("kworker-"):
            raise ValueError(f"cannot publish {task!r}: a header may not be called {name!r} ('kworker-' is reserved)")
    if content_type == "application/json" and "content-type" in headers:
        raise ValueError(f"cannot publish {task!r}: only a payload given as bytes may bring its own 'content-type'")


def _check_name(task: str, of: str, name: object) -> None:
    if not isinstance(name, str) or not _WRITABLE.fullmatch(name):
        raise ValueError(f"cannot publish {task!r}: {ascii(name)[:80]} is not the name of a {of}")


def _bytes(text: str | bytes, where: str) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise TypeError(f"{where} is {type(text).__name__}: give str or bytes")
