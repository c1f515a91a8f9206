"""What a letter's value says, for people: JSON laid out, Avro by the schemas of plugins and registry, text, or bytes.

Total: whatever cannot be read as what it should be is text or a dump of bytes, with a note that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kworker.codecs.avro import AVRO, BARE, SINGLE_OBJECT, AvroPayloads, Schemas
from kworker.codecs.json import check
from kworker.codecs.limits import Limits
from kworker.dlq.letter import Letter
from kworker.errors import DecodeError, PluginError, Unavailable
from kworker.plugin import TaskSpec

MOST_DUMPED = 1_024
"""Bytes of a dump."""

_PATIENCE = 10.0  # seconds for the schema registry
_MOST_SHOWN = 100_000


class Payload(NamedTuple):
    """kind: `null`, `empty`, `json`, `avro`, `text` or `bytes`. text: to show. json: the same as JSON text, or ''.

    note: why it is not shown as what it should be.
    """

    kind: str
    text: str = ""
    json: str = ""
    note: str = ""


AvroSource = Callable[[], tuple[dict[str, TaskSpec], Schemas | None]]
"""The installed tasks by name, and the schemas of the registry; asked only for Avro."""


def payload(letter: Letter, avro: AvroSource, registry: bool) -> Payload:
    """What the letter's value says. registry: whether there is one, so that Confluent's framing means Avro."""
    value = letter.value
    if not value:
        return Payload("null" if value is None else "empty")
    if letter.truncated is not None:
        return _as_bytes(value, "")
    kind = (
        (dict(letter.headers).get("content-type") or b"").decode("utf-8", "replace").partition(";")[0].strip().lower()
    )
    framed = value[:2] == SINGLE_OBJECT or (value[0] == 0 and registry)
    if kind in (AVRO, BARE) or (not kind and framed):
        return _as_avro(letter, value, avro, bare=kind == BARE)
    return _as_json(value) or _as_text(value, "")


def _as_json(value: bytes) -> Payload | None:
    try:
        check(value, Limits())
        text = msgspec.json.format(value, indent=2).decode()
        msgspec.json.decode(value)  # the layout alone takes more than is JSON
    except (DecodeError, msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return Payload("json", text, value.decode())


def _as_avro(letter: Letter, value: bytes, avro: AvroSource, *, bare: bool) -> Payload:
    tasks, schemas = avro()
    spec = tasks.get(letter.task) or TaskSpec(letter.task or "none", lambda: None, "thread")
    topic = letter.origin.topic if letter.origin else letter.place.topic
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            payloads = AvroPayloads(spec, Limits(), schemas)
            json = msgspec.json.encode(payloads.read_bare(value) if bare else payloads.read(value, topic))
            return Payload("avro", msgspec.json.format(json, indent=2).decode(), json.decode())
        except Unavailable as error:
            if time.monotonic() + error.after > deadline:
                return _as_text(value, f"Avro that cannot be read now: {error}")
            time.sleep(error.after)  # as long as the registry's client wants to be left alone
        except (DecodeError, PluginError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return _as_text(value, f"Avro that cannot be read: {error}")


def _as_text(value: bytes, note: str) -> Payload:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _as_bytes(value, note)
    if sum(not (char.isprintable() or char in "\n\t\r") for char in text[:MOST_DUMPED]) > 4:
        return _as_bytes(value, note)
    return Payload("text", text, note=note)


def _as_bytes(value: bytes, note: str) -> Payload:
    lines = []
    for start in range(0, min(len(value), MOST_DUMPED), 16):
        row = value[start : start + 16]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {shown}")
    if len(value) > MOST_DUMPED:
        lines.append(f"... {len(value)} bytes in all: --raw writes them")
    return Payload("bytes", "\n".join(lines), note=note)
