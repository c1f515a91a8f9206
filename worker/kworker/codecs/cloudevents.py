"""CloudEvents in structured mode: the data in an envelope, as a payload with a content type of its own.

The envelope's attributes are read elsewhere, in the loop (core/structured.py); here, in the slot, its data. Promises:
the limits count for the envelope as for any payload; data is never read by another format than it is declared in.
"""

from __future__ import annotations

import base64
import binascii
from functools import cache
from typing import NamedTuple, NoReturn

import msgspec

from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.json import check, one_line, refusal
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.task import Reason

JSON_EVENT = "application/cloudevents+json"
AVRO_EVENT = "application/cloudevents+avro"

_DATA = "AvroCloudEventData"
_TREE = ["null", "boolean", {"type": "map", "values": _DATA}, {"type": "array", "items": _DATA}, "double", "string"]
_RECORD = {"type": "record", "name": _DATA, "fields": [{"name": "value", "type": {"type": "map", "values": _TREE}}]}
_BRANCHES = ["null", "boolean", _RECORD, "double", "string"]
_EVENT = {
    "type": "record",
    "name": "AvroCloudEvent",
    "namespace": "io.cloudevents",
    "fields": [
        {"name": "attribute", "type": {"type": "map", "values": ["null", "boolean", "int", "string", "bytes"]}},
        {
            "name": "data",
            "type": [
                "bytes",
                "null",
                "boolean",
                {"type": "map", "values": _BRANCHES},
                {"type": "array", "items": _DATA},
                "double",
                "string",
            ],
        },
    ],
}


class Content(NamedTuple):
    """An event's data as a payload. kind: its content type, '' when the envelope names none."""

    kind: str
    data: bytes


class _Event(msgspec.Struct, gc=False):
    datacontenttype: str | None = None
    datacontentencoding: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None


_decode = msgspec.json.Decoder(_Event).decode


def from_json(value: bytes, limits: Limits) -> Content:
    """The data of a JSON envelope. Raises DecodeError."""
    check(value, limits)
    try:
        event = _decode(value)
        kind = event.datacontenttype or ""
        data = bytes(event.data)
        if event.data_base64 is not None:
            if data != b"null":
                _refuse("the envelope has both data and data_base64")
            return Content(kind, base64.b64decode(event.data_base64.encode(), validate=True))
        if event.datacontentencoding is not None:
            _refuse("datacontentencoding is of CloudEvents 0.3: publish 1.0, with data_base64")
        if is_json(kind):
            return Content(kind, data)
        return Content(kind, b"" if data == b"null" else msgspec.json.decode(data, type=str).encode())
    except binascii.Error:
        _refuse("data_base64 is not base64")
    except msgspec.ValidationError as error:
        _refuse(f"{error}; data that is not JSON is a string")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise refusal(error, value) from None


def from_avro(value: bytes, limits: Limits) -> Content:
    """The data of an Avro envelope. Raises DecodeError."""
    event = _schema(limits).read(value)
    declared, data = event["attribute"].get("datacontenttype"), event["data"]
    kind = declared if isinstance(declared, str) else ""
    if isinstance(data, bytes):
        return Content(kind, data)
    if data is None:
        return Content(kind, b"")
    if isinstance(data, str) and not is_json(kind):
        return Content(kind, data.encode())
    if isinstance(data, dict | list) or not is_json(kind):
        # Its form for objects and arrays makes every number a double and cannot hold an array of numbers.
        _refuse("in Avro, data is read as bytes or a string: give JSON as bytes")
    return Content(kind, msgspec.json.encode(data))


def is_json(kind: str) -> bool:
    """Whether data of this type stands in an envelope as JSON; without a type it does."""
    plain = kind.partition(";")[0].strip().lower()
    return plain in ("", "application/json", "text/json") or plain.endswith("+json")


@cache
def _schema(limits: Limits) -> AvroSchema:
    return AvroSchema(_EVENT, limits)


def _refuse(why: str) -> NoReturn:
    raise DecodeError(Reason.UNDECODABLE, "envelope", one_line(f"CloudEvents: {why}"))
