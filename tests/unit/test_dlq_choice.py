"""Which letters `kworker dlq` means, how they are counted, and how they are shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from kit.deadletters import Original, Stored
from kit.records import NewRecord
from kworker.codecs.avro_schema import AvroSchema
from kworker.dlq.choice import Choice, conditions, moment, rate
from kworker.dlq.groups import Groups
from kworker.dlq.letter import Letter, read
from kworker.dlq.payload import AvroSource, payload
from kworker.dlq.shown import described, letter_as_json, table
from kworker.errors import DecodeError, Unavailable
from kworker.plugin import TaskSpec
from kworker.task import ErrorInfo, Headers, Reason

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}


def letter(
    value: bytes | None = b"{}",
    headers: Headers | None = None,
    key: bytes | None = b"k",
    error: ErrorInfo | None = None,
    at: float = 100.0,
    offset: int = 7,
) -> Letter:
    found = headers if headers is not None else [("ce_type", b"mail"), ("ce_id", b"i-1")]
    made = Original("tasks", 3, 42, key, value, found)
    return read(Stored(made.letter(Reason.INVALID, error or ErrorInfo("schema", "bad"), at=at), "tasks.dlq", offset))


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ([], True),
        (["task=mail"], True),
        (["task=mai"], False),
        (["task=other", "task=mail"], True),
        (["task=mail", "reason=rejected"], False),
        (["reason=invalid", "error=schema", "id=i-1", "key=k"], True),
        (["key="], False),
        (["origin=tasks"], True),
        (["origin=tasks/3"], True),
        (["origin=tasks:3:42"], True),
        (["origin=tasks:3:4"], False),
        (["origin=task"], False),
    ],
)
def test_letters_are_chosen_by_what_they_say(where: list[str], taken: bool) -> None:
    assert Choice(conditions(where)).takes(letter()) is taken


def test_letters_are_chosen_by_fingerprint_time_and_place() -> None:
    found = letter()
    assert Choice(conditions([f"fingerprint={found.fingerprint}"])).takes(found)
    assert Choice(conditions(["key=\udcff"])).takes(letter(key=b"\xff"))
    assert not Choice(conditions(["key="])).takes(letter(key=None))
    assert Choice({}, before=100_001, since=100_000).takes(found)
    assert not Choice({}, before=100_000).takes(found)
    assert not Choice({}, since=100_001).takes(found)
    assert Choice({}, partition=3, offset=7).takes(found)
    assert not Choice({}, partition=3, offset=8).takes(found)


def test_what_cannot_be_meant_is_told() -> None:
    for text in ("task", "tusk=x", "=x"):
        with pytest.raises(ValueError, match="with one of the names task, reason"):
            conditions([text])
    assert moment("2h", 10_000) == 2_800_000
    assert moment("2026-12-01T09:00:00+01:00", 0) == moment("2026-12-01T08:00:00Z", 5)
    with pytest.raises(ValueError, match="offset from UTC"):
        moment("2026-12-01T09:00:00", 0)
    with pytest.raises(ValueError, match="neither a duration"):
        moment("soon", 0)
    assert [rate(text) for text in ("100/s", "100", "30/m", "36/h")] == [100, 100, 0.5, 0.01]
    for text in ("", "0/s", "1/d", "-1", "1.5", "100/", "9" * 30):
        with pytest.raises(ValueError, match="not a rate"):
            print(rate(text))


def test_groups_are_bounded_and_nothing_goes_uncounted() -> None:
    groups = Groups(most=2)
    for n in range(10):
        groups.add(
            letter(error=ErrorInfo(f"E{n % 5}", f"\x1b[31mwrong {n}"), at=100 + n, offset=n), resolved=n % 5 == 0
        )
    assert (groups.count, groups.left_out) == (10, 6)
    first, second = groups.largest_first()
    assert (first.error, first.count, first.resolved, first.sample) == ("E1", 2, 0, "tasks.dlq:3:6")
    assert (second.first_seen, second.last_seen, second.resolved) == (100_000, 105_000, 2)
    head, row, _ = table([first, second], resolved=True)
    assert head.split()[:3] == ["COUNT", "RESOLVED", "FIRST"]
    assert row.split()[:4] == ["2", "0", "1970-01-01T00:01:41Z", "1970-01-01T00:01:46Z"]
    assert r"\x1b[31mwrong 6" in row
    assert "\x1b" not in row


def none() -> tuple[dict[str, TaskSpec], None]:
    raise AssertionError("no plugin is loaded for what is not Avro")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "null", ""),
        (b"", "empty", ""),
        (b'{"a":[1,{}]}', "json", '{\n  "a": [\n    1,\n    {}\n  ]\n}'),
        (b'{"a":', "text", '{"a":'),
        (b"[" * 100 + b"]" * 100, "text", "[" * 100 + "]" * 100),
        (b"\xff\x00A", "bytes", "00000000  ff 00 41                                          ..A"),
        (bytes(16), "bytes", "00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  ................"),
    ],
)
def test_a_payload_is_shown_as_what_it_is(value: bytes | None, kind: str, text: str) -> None:
    shown = payload(letter(value), none, registry=False)
    assert (shown.kind, shown.text) == (kind, text)


def test_a_dump_is_capped() -> None:
    shown = payload(letter(bytes(10_000)), none, registry=False)
    assert len(shown.text.splitlines()) == 65
    assert shown.text.endswith("... 10000 bytes in all: --raw writes them")


class Registry:
    """Has one schema, of one topic; the first answer is late."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def schema(self, id: int, topic: str) -> AvroSchema:
        self.asked.append((id, topic))
        if len(self.asked) == 1:
            raise Unavailable("not yet", 0.0)
        if id != 5:
            raise DecodeError(Reason.UNDECODABLE, "schema_unknown", "there is no such schema")
        return AvroSchema(SCHEMA)


def test_avro_is_shown_by_the_registry_or_by_the_installed_task() -> None:
    registry = Registry()
    framed = b"\0\0\0\0\5\x0e"
    shown = payload(letter(framed), lambda: ({}, registry), registry=True)
    assert (shown.kind, shown.json) == ("avro", '{"n":7}')
    assert registry.asked == [(5, "tasks")] * 2
    unknown = payload(letter(b"\0\0\0\0\6\x0e"), lambda: ({}, registry), registry=True)
    assert (unknown.kind, unknown.note) == ("bytes", "Avro that cannot be read: there is no such schema")
    spec = TaskSpec("mail", lambda n: None, "thread", schema=SCHEMA)
    installed: AvroSource = lambda: ({"mail": spec}, None)  # noqa: E731 - it says what it is
    single = b"\xc3\x01" + AvroSchema(SCHEMA).fingerprint + b"\x0e"
    assert payload(letter(single), installed, registry=False).json == '{"n":7}'
    bare: Headers = [("ce_type", b"mail"), ("content-type", b"Avro/Binary")]
    assert payload(letter(b"\x0e", bare), installed, registry=False).json == '{"n":7}'
    assert "cannot be read" in payload(letter(b"\x0e", bare), lambda: ({}, None), registry=False).note


def test_all_of_a_letter_is_shown_and_cannot_steer_a_terminal() -> None:
    headers: Headers = [("ce_type", b"m\x1bail"), ("x\x9b", b"\xff"), ("n", None), ("n", b"")]
    error = ErrorInfo("E", "line 1\nline \x1b[2J2", "Traceback:\n  \x1b]0;x\x07frame\nE: x")
    found = letter(b'{"a": "\xc2\x9bx"}', headers, b"\x1bk", error)
    text = "\n".join(described(found, payload(found, none, registry=False), resolved=True))
    assert not [char for char in text if not char.isprintable() and char != "\n"]
    for line in (
        "letter      tasks.dlq:3:7, resolved",
        "origin      tasks/3/42",
        r"task        m\x1bail, id tasks/3/42",
        r"error       E: line 1\nline \x1b[2J2",
        r"key         \x1bk",
        r"header      x\x9b: b'\xff'",
        "header      n: null",
        "header      n:",
        "  \\x1b]0;x\\x07frame",
        '  "a": "\\x9bx"',
    ):
        assert line in text.splitlines(), line
    shown = json.loads(msgspec.json.encode(letter_as_json(found, payload(found, none, registry=False), resolved=False)))
    assert shown["headers"][1:3] == [{"name": "x\x9b", "value": {"base64": "/w=="}}, {"name": "n", "value": None}]
    assert (shown["place"], shown["kind"], shown["key"]) == ("tasks.dlq:3:7", "json", {"text": "\x1bk"})
    assert shown["payload"] == {"a": "\x9bx"}


def test_what_no_worker_wrote_is_shown() -> None:
    found = read(Stored(NewRecord(b"\xff", None, (("kworker-failed-at", b"9" * 18),), 0)))
    text = "\n".join(described(found, payload(found, none, registry=False), resolved=False))
    assert "reason      none: no worker wrote this record" in text
    assert "failed -" in text
