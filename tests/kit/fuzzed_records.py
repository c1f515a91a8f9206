"""Random and mutated records for the tasks of fuzz_plugin: every codec, every header that is read, seeded by `chance`.

A record begins as a valid one in some format; then, more often than not, something of it is cut out, doubled, changed
or put in. What comes of it is not known here: whoever reads it must find out, and live.
"""

from __future__ import annotations

import base64
import io
import json
import random
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import fastavro

from kit.avro_zoo import ZOO, value_of
from kit.records import NewRecord
from kworker.plugin import MARK, TaskSpec

PLUGIN = Path(__file__).parent / "fuzz_plugin"


def _loaded() -> ModuleType:
    """The plugin's module, as a worker loads it from its folder."""
    found = spec_from_file_location("fuzz_plugin", PLUGIN / "fuzz_plugin.py")
    assert found is not None
    assert found.loader is not None
    module = sys.modules[found.name] = module_from_spec(found)
    found.loader.exec_module(module)
    return module


_MODULE = _loaded()
SPECS: dict[str, TaskSpec] = {
    spec.name: spec for member in vars(_MODULE).values() if isinstance(spec := getattr(member, MARK, None), TaskSpec)
}
"""The tasks, by name."""

TREE, LOGICAL, FLAT = _MODULE.TREE, _MODULE.LOGICAL, _MODULE.FLAT
REGISTERED: list[Any] = [TREE, LOGICAL, *FLAT, *ZOO]
"""What the topic's subject holds in a schema registry, under the ids 1, 2, 3 ... in this order."""

OTHERS = [{"type": "record", "name": "Foreign", "fields": [{"name": "n", "type": "long"}]}]
"""What another subject holds, under the ids that follow."""

_EVENT = fastavro.parse_schema(json.loads((Path(__file__).parent / "foreign_plugin" / "event.avsc").read_text()))
_OWN = {"fuzz.logical": [LOGICAL], "fuzz.flat": FLAT, "fuzz.tree": [TREE]}
_JSON: dict[str, list[Any]] = {
    "fuzz.plain": [{"n": 1, "name": "abc", "flag": True}, {"n": -(2**63)}],
    "fuzz.typed": [
        {"when": "2026-12-01T09:00:00+01:00", "wait": "PT5M", "day": "2024-02-29", "at": "23:59:59.999"},
        {
            "id": "00000000-0000-0000-0000-000000000007",
            "price": "1.25",
            "colour": "red",
            "data": "aGk=",
            "ratio": 1e308,
        },
        {"tree": {"name": "a", "children": [{"name": "b"}]}, "raw": {"any": [1, None, "é😀"]}},
    ],
    "fuzz.anything": [{"x": [[[]], {"a": {}}, -0.0, 18446744073709551616, 'a\\"b']}, [1, 2, 3], None, 10**22],
    "fuzz.extra": [{"a": 1, "b": "2", "c": [3]}, {}],
    "fuzz.binary": [{"data": "aGk="}, "aGk="],
    "fuzz.logical": [
        {
            "day": "2024-02-29",
            "at": "12:30:00",
            "when": "2026-01-02T03:04:05Z",
            "id": "00000000-0000-0000-0000-000000000007",
            "price": "1.25",
        }
    ],
    "fuzz.flat": [{"n": 1, "s": "é", "more": {"a": "aGk="}}],
    "fuzz.tree": [{"name": "a", "children": [{"name": "b", "children": []}]}],
}
_TYPES = [
    "", "application/json", "APPLICATION/JSON; charset=utf-8", "application/octet-stream", "a+json", "application/avro",
    "avro/binary", "application/cloudevents+json", "application/cloudevents+avro", "application/cloudevents-batch+json",
    "application/cloudevents", "text/plain", "application/gzip", "\x00;é",
]  # fmt: skip
_PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b"[" * 70, b'{"a":' * 70, b'"', b"\\", b"\\ud800", b"\xff", b"\x00",
    b"\xef\xbb\xbf", b"}", b"]", b",", b"null", b"-", b'"P9999999999D"', b'"0000-00-00"', b"1e99999999999999999999",
    b'"9999-12-31T23:59:60-23:59"', b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80\x00", b"\x03\x02", b"\xc3\x01",
    b"\r\n\x1b[31m", b"\xed\xa0\x80", b"\x1f\x8b\x08",
]  # fmt: skip
_TIMES = [b"2099-01-01T00:00:00Z"] * 8 + [b"2020-01-01T00:00:00Z", b"soon", b"", b"9999-12-31T23:59:59-23:59", b"nan"]
_READ = ["ce_id", "ce_replyto", "ce_specversion", "ce_source", "ce_time", "traceparent", "tracestate", "content-type"]
_FORGED = ["kworker-attempt", "kworker-attempts", "kworker-origin", "kworker-reason", "kworker-replay", "kworker-delay"]
_MOST_NAMED = 8  # headers that one record is given by name

Form = tuple[bytes | None, str, dict[str, Any]]
"""A payload, its content type, and the attributes of an envelope that names the task instead of a header."""


class FuzzedRecords:
    """An endless supply. reply_to: the topic that some of their envelopes ask replies to be sent to."""

    def __init__(self, chance: random.Random, reply_to: str = "answers") -> None:
        self.chance = chance
        self._reply_to = reply_to
        self._schemas = [fastavro.parse_schema(definition) for definition in (*REGISTERED, *OTHERS)]
        texts: list[Callable[[str], Form]] = [self._json, self._json, self._json_event, self._avro_event]
        avro: list[Callable[[str], Form]] = [self._single_object, self._framed, self._bare]
        self._forms = {name: [*texts, *avro, *texts, *avro, self._bytes, self._noise] for name in SPECS}
        self._forms |= {
            name: [*texts, *texts, *texts, *avro, self._bytes, self._noise] for name in SPECS.keys() - _OWN.keys()
        }
        self._forms |= {"fuzz.binary": [*texts, self._bytes, self._bytes, self._bytes, self._noise]}

    def record(self) -> NewRecord:
        """One of them; its headers' names are text, as a client must have them."""
        chance = self.chance
        task = chance.choice(list(SPECS))
        value, kind, named = chance.choice(self._forms[task])(task)
        if value is not None and chance.random() < 0.5:
            value = self.mutated(value)
        headers: list[tuple[str, bytes | None]] = []
        if not named or chance.random() < 0.1:
            headers += self._name(task)
        if chance.random() < 0.05:
            kind = chance.choice(_TYPES)
        if kind:
            headers.append(("content-type", self._maybe(kind.encode())))
        if chance.random() < 0.3:
            headers += [self._header() for _ in range(chance.choice((1, 1, 2, _MOST_NAMED)))]
        if chance.random() < 0.002:
            headers += [(f"h{n}", b"x") for n in range(300)]
        if chance.random() < 0.0005:
            headers.append(("big", chance.randbytes(300_000)))
        chance.shuffle(headers)
        return NewRecord(value, self._key(), tuple(headers), chance.choice((0, 1)))

    def mutated(self, data: bytes) -> bytes:
        """`data` with a few bytes or pieces cut out, doubled, changed or put in."""
        chance, value = self.chance, bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            at = chance.randrange(len(value) + 1)
            until = min(len(value), at + chance.randrange(6))
            match chance.randrange(5):
                case 0:
                    del value[at:until]
                case 1:
                    value[at:at] = value[at:until] * 2
                case 2 if at < len(value):
                    value[at] = chance.randrange(256)
                case 3:
                    value[at:at] = chance.randbytes(chance.randrange(4))
                case _:
                    value[at:at] = chance.choice(_PIECES)
        return bytes(value)

    # -- its parts ----------------------------------------------------------------------------------------------

    def _maybe(self, data: bytes) -> bytes:
        """`data`, as a rule."""
        return self.mutated(data) if self.chance.random() < 0.03 else data

    def _name(self, task: str) -> list[tuple[str, bytes | None]]:
        chance, name = self.chance, self._maybe(task.encode())
        if (what := chance.random()) < 0.03:
            return []
        if what < 0.06:
            return [("ce_type", None), ("task", name)]
        return [(chance.choice(("ce_type", "ce_type", "task")), name)]

    def _key(self) -> bytes | None:
        chance = self.chance
        return chance.choice((None, b"", b"k", chance.randbytes(chance.randrange(40)), b"\xff\x00" * 200))

    def _header(self) -> tuple[str, bytes | None]:
        chance = self.chance
        value = chance.choice((None, b"", b"1", b"-1", b"x" * 300, chance.randbytes(chance.randrange(30))))
        match chance.randrange(4):
            case 0:
                return "ce_deadline", self._maybe(chance.choice(_TIMES))
            case 1:
                return chance.choice(_READ), value
            case 2:
                return chance.choice(_FORGED), value
        return "".join(chance.choice('aé\r\n\x1b\x7f\u2028😀<"') for _ in range(chance.randrange(12))), value

    # -- payloads -----------------------------------------------------------------------------------------------

    def _text(self, task: str) -> bytes:
        return json.dumps(self.chance.choice(_JSON[task]), ensure_ascii=self.chance.random() < 0.5).encode()

    def _written(self, schema: Any) -> bytes:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, value_of(schema, self.chance))
        return stream.getvalue()

    def _json(self, task: str) -> Form:
        return self._text(task), self.chance.choice(("", "application/json")), {}

    def _single_object(self, task: str) -> Form:
        schema = self.chance.choice(_OWN.get(task) or REGISTERED)
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        print_ = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        return b"\xc3\x01" + print_ + self._written(schema), self.chance.choice(("", "application/avro")), {}

    def _framed(self, task: str) -> Form:
        chance = self.chance
        schema = chance.choice(_OWN[task]) if task in _OWN and chance.random() < 0.7 else None
        number = REGISTERED.index(schema) if schema else chance.randrange(len(self._schemas))
        id = number + 1 if chance.random() < 0.97 else chance.choice((0, len(self._schemas) + 1, 2**32 - 1))
        return b"\0" + id.to_bytes(4, "big") + self._written(self._schemas[number]), "", {}

    def _bare(self, task: str) -> Form:
        schema = self.chance.choice(_OWN.get(task) or REGISTERED)
        return self._written(schema), self.chance.choice(("application/avro", "avro/binary")), {}

    def _bytes(self, task: str) -> Form:
        return self.chance.randbytes(self.chance.randrange(100)), "application/octet-stream", {}

    def _noise(self, task: str) -> Form:
        chance = self.chance
        return chance.choice((None, b"", chance.randbytes(chance.randrange(60)))), chance.choice(_TYPES), {}

    def _attributes(self, task: str) -> dict[str, Any]:
        chance = self.chance
        more = {"deadline": chance.choice(_TIMES).decode(), "replyto": self._reply_to, "subject": "é", "anumber": "7"}
        attributes = {"specversion": "1.0", "id": f"{chance.randrange(100)}", "source": "/s", "type": task}
        return attributes | {name: text for name, text in more.items() if chance.random() < 0.1}

    def _json_event(self, task: str) -> Form:
        event = self._attributes(task)
        if self.chance.random() < 0.6:
            event |= {"data": self.chance.choice(_JSON[task])}
        else:
            value, kind, _ = self.chance.choice((self._single_object, self._json, self._bytes))(task)
            event |= {"data_base64": base64.b64encode(value or b"").decode(), "datacontenttype": kind or "text/json"}
        return json.dumps(event).encode(), "application/cloudevents+json; charset=UTF-8", event

    def _avro_event(self, task: str) -> Form:
        attributes = self._attributes(task)
        data: Any = self.chance.choice((self._text(task), self._text(task), None, True, 2.5, "text", {"name": "a"}))
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, _EVENT, {"attribute": attributes | {"n": 7, "none": None}, "data": data})
        return stream.getvalue(), "application/cloudevents+avro", attributes
