"""The records of FAULTS.md "Bad input" that one worker is fed together, and what must become of each."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field

from kit import NewRecord
from kworker.task import Headers

ID = "<id>"
"""In `calls`: the task's id, topic/partition/offset."""
MIB = 1024 * 1024
MOST_BYTES = 12 * MIB
"""max.message.bytes of the topic they go to."""


@dataclass(frozen=True)
class Bad:
    """One record. `reason`: of its dead letter, '' when it must succeed; `code`: its kworker-error-type.

    calls: what the plugin notes, in order: (task, attempt, detail) each. attempts: as the dead letter tells them.
    """

    row: int
    name: str
    record: NewRecord
    reason: str = ""
    code: str = ""
    calls: tuple[tuple[str, int, object], ...] = ()
    attempts: int = 0

    @property
    def headers(self) -> Headers:
        return list(self.record.headers)

    def __str__(self) -> str:
        return self.name


@dataclass
class _Table:
    row: int = 0
    bad: list[Bad] = field(default_factory=list)

    def add(self, name: str, record: NewRecord, reason: str = "", code: str = "", **more: object) -> None:
        self.bad.append(Bad(self.row, name, record, reason, code, **more))  # type: ignore[arg-type]

    def undecodable(self, name: str, value: bytes | None, code: str, task: str = "take.anything") -> None:
        """A payload that cannot be read: its slot finds out, before the plugin is called."""
        self.add(name, new(task, value), "undecodable", code, attempts=1)

    def invalid(self, name: str, value: bytes | None, code: str = "schema", task: str = "greet") -> None:
        self.add(name, new(task, value), "invalid", code, attempts=1)

    def unroutable(self, name: str, task: str) -> None:
        self.add(name, new(task, b"{}"), "unroutable", "unknown_task" if task else "no_task")

    def good(self, name: str, record: NewRecord, task: str, detail: object) -> None:
        self.add(name, record, calls=((task, 1, detail),))

    def raised(self, what: str, code: str) -> None:
        record = new("raise", json.dumps({"what": what}).encode())
        calls = (("raise", 1, what), ("raise", 2, what))
        self.add(what, record, "exhausted", code, calls=calls, attempts=2)


def new(
    task: str | bytes, value: bytes | None, *headers: tuple[str, bytes | None], key: bytes | None = b"k\x00\xff"
) -> NewRecord:
    """A record for a task, with a key that is no text."""
    name = task.encode() if isinstance(task, str) else task
    return NewRecord(value, key, (("ce_type", name), *headers))


def table() -> list[Bad]:
    """All of them, in the order they are published."""
    made = _Table()
    for row, fill in ROWS.items():
        made.row = row
        fill(made)
    return made.bad


def _empty(t: _Table) -> None:
    t.invalid("empty", b"", "empty")
    t.invalid("null", None, "empty")
    t.add("nothing at all", NewRecord(), "unroutable", "no_task")
    t.add("empty key", new("greet", b"", key=b""), "invalid", "empty", attempts=1)
    t.add("null key", new("greet", b"", key=None), "invalid", "empty", attempts=1)


def _random(t: _Table) -> None:
    chance = random.Random(2)
    for number in range(200):
        # Never a digit first: every prefix of a random value would be a number with something behind it.
        value = bytes([chance.choice(b"\x00\xff{[\"tn'<")]) + chance.randbytes(chance.randrange(8, 2000))
        t.undecodable(f"random {number}", value, "")


def _text(t: _Table) -> None:
    t.undecodable("bytes that are not UTF-8", b'{"name": "\xff\xfe"}', "encoding", "greet")
    t.undecodable("an overlong encoding", b'{"name": "\xc0\xaf"}', "encoding", "greet")
    t.undecodable("a surrogate as bytes", b'{"name": "\xed\xa0\x80"}', "encoding", "greet")
    t.undecodable("a lone surrogate", b'{"name": "\\ud800"}', "syntax", "greet")
    t.undecodable("a BOM", b'\xef\xbb\xbf{"name": "a"}', "syntax", "greet")
    t.undecodable("UTF-16", '{"name": "a"}'.encode("utf-16"), "syntax", "greet")
    t.undecodable("NUL", b"\x00", "syntax", "greet")
    t.good("an escaped NUL", new("greet", b'{"name": "\\u0000"}'), "greet", (ID, "\0", 1))


def _deep(t: _Table) -> None:
    t.undecodable("65 deep", b"[" * 65 + b"]" * 65, "too_deep")
    t.undecodable("100,000 deep", b"[" * 100_000 + b"]" * 100_000, "too_deep")
    t.undecodable("100,000 objects deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep")
    t.undecodable("100,000 opened", b"[" * 100_000, "too_deep")
    t.good("64 deep", new("take.anything", b"[" * 64 + b"]" * 64), "take.anything", (ID, "list"))


def _numbers(t: _Table) -> None:
    for text in ("NaN", "Infinity", "-Infinity", "1e999"):
        t.undecodable(text, f'{{"ratio": {text}}}'.encode(), "number", "take.exact")
        t.undecodable(f"[{text}]", f"[{text}]".encode(), "number")


def _duplicates(t: _Table) -> None:
    record = new("greet", b'{"name": "first", "count": 1, "name": "last", "count": 2}')
    t.good("the last wins", record, "greet", (ID, "last", 2))


def _digits(t: _Table) -> None:
    t.undecodable("100,000 digits", b'{"name": "a", "count": ' + b"9" * 100_000 + b"}", "number", "greet")
    t.undecodable("100,000 decimals", b'{"ratio": 0.' + b"1" * 100_000 + b"}", "number", "take.exact")


def _bloat(t: _Table) -> None:
    t.undecodable("9 MiB of {}", b"[" + b"{}," * (3 * MIB) + b"{}]", "too_large")
    t.undecodable("7 MiB of {}", b"[" + b"{}," * (7 * MIB // 3) + b"{}]", "too_many_items")
    t.undecodable("7 MiB of []", b"[" + b"[]," * (7 * MIB // 3) + b"[]]", "too_many_items")


def _names(t: _Table) -> None:
    for task in (
        "Greet",
        "gr\u0435et",  # a Cyrillic e
        "greet\u200b",
        " greet",
        "greet\x00",
        "../greet",
        "../../etc/passwd",
        "__class__",
        "__import__('os').system('touch pwned')",
        "os:system",
        "_unknown",
        "",
        "g" * 100_000,
        # Row 38: a name is a name, never a pattern.
        "greet*",
        "^greet$",
        "gr?et",
    ):
        t.unroutable(repr(task[:40]), task)
    record = NewRecord(b'{"name": "a"}', None, (("task", b"greet"), ("ce_type", b"nobody")))
    t.add("ce_type wins over task", record, "unroutable", "unknown_task")


def _arguments(t: _Table) -> None:
    t.invalid("missing", b"{}", task="greet")
    t.invalid("wrong type", b'{"name": 1}')
    t.invalid("a number as text", b'{"name": "a", "count": "1"}')
    t.invalid("a fraction", b'{"name": "a", "count": 1.5}')
    t.invalid("a boolean", b'{"name": "a", "count": true}')
    t.invalid("extra", b'{"name": "a", "more": 1}')
    t.invalid("the context", b'{"name": "a", "ctx": {}}')
    t.invalid("null", b'{"name": null}')
    t.invalid("a list", b'["a", 1]')
    t.invalid("a string", b'"a"')
    t.invalid("nothing but null", b"null", "empty")


def _overflow(t: _Table) -> None:
    for name, text in {
        "month 13": '{"at": "2026-13-01T00:00:00Z"}',
        "year 287168": '{"at": "287168-01-01T00:00:00Z"}',
        "second 61": '{"at": "2026-01-01T00:00:61Z"}',
        "offset 99:99": '{"at": "2026-01-01T00:00:00+99:99"}',
        "a number as date": '{"at": 99999999999999999999}',
        "no decimal": '{"amount": "1e1e1"}',
        "10^10^19": '{"amount": "1e10000000000000000000"}',
        "days without end": '{"wait": "P99999999999D"}',
        "no UUID": '{"id": "00000000-0000-0000-0000-00000000000g"}',
    }.items():
        t.invalid(name, text.encode(), task="take.exact")


def _compressed(t: _Table) -> None:
    bomb = gzip.compress(b"[" + b"0," * (16 * MIB) + b"0]")
    t.undecodable("gzip named JSON", bomb, "syntax")
    record = new("take.anything", bomb, ("content-type", b"application/gzip"))
    t.add("gzip named gzip", record, "undecodable", "content_type", attempts=1)
    record = new("take.anything", bomb, ("content-encoding", b"gzip"), ("content-type", b"application/json"))
    t.add("gzip as an encoding", record, "undecodable", "syntax", attempts=1)


def _headers(t: _Table) -> None:
    value = b'{"name": "a"}'
    record = new("greet", value, *((f"h{number}", b"x") for number in range(10_000)))
    t.add("10,000", record, "undecodable", "headers_too_large")
    t.add("1 MiB", new("greet", value, ("big", b"\xff" * MIB)), "undecodable", "headers_too_large")
    t.add("a 1 MiB name", new("greet", value, ("n" * MIB, b"")), "undecodable", "headers_too_large")
    record = new("nobody", value, ("ce_type", b"x"), ("ce_type", b"greet"))
    t.good("the last of duplicates counts", record, "greet", (ID, "a", 1))
    record = NewRecord(value, None, (("task", b"greet"), ("ce_type", None)))
    t.good("a null ce_type is none", record, "greet", (ID, "a", 1))
    record = new("greet", value, ("", b"x"), ("", None), ("no value", None), ("empty", b""), ("\u4e2d", b"\xff"))
    t.good("empty names and null values", record, "greet", (ID, "a", 1))
    record = new("nobody", None, ("", b"x"), ("", None), ("no value", None), ("empty", b""), ("\u4e2d", b"\xff"))
    t.add("empty names and null values, set aside", record, "unroutable", "unknown_task")
    t.add("a name that is no text", new(b"\xff\xfe", value), "undecodable", "header")
    t.add("an id that is no text", new("greet", value, ("ce_id", b"\xff")), "undecodable", "header")
    record = new("greet", value, ("content-type", b"\xff"))
    t.add("a content type that is no text", record, "undecodable", "header")


FORGED = b"forged\r\n2026-01-01 00:00:00,000 info    FORGED\x1b[31mFORGED\x1b]0;FORGED\x07\x9b31m"


def _control(t: _Table) -> None:
    forged = FORGED.decode("latin-1")
    # The first of its kind, so that the log has a line about it.
    t.add(
        "in the task name, the id and the key",
        new(forged, b"", ("ce_id", FORGED), key=FORGED),
        "unroutable",
        "unknown_task",
    )
    t.add("in a header", new("nobody", b"", (forged, FORGED)), "unroutable", "unknown_task")
    record = new("greet", b'{"nobody": 1}', ("ce_id", forged.encode()))
    t.add("in the id", record, "invalid", "schema", attempts=1)
    record = new("greet", json.dumps({"name": "a", forged: 1}).encode())
    t.add("in a field", record, "invalid", "schema", attempts=1)
    record = new("greet", b"{}", ("content-type", forged.encode()))
    t.add("in the content type", record, "undecodable", "content_type", attempts=1)
    t.raised("surrogate", "ValueError")


def _forged(t: _Table) -> None:
    for attempt in (b"-1", b"1000000000", b"x"):
        headers = (("kworker-attempt", attempt), ("kworker-attempts", attempt), ("kworker-origin", b"else/0/0"))
        shown = (ID, attempt)
        t.good(f"attempt {attempt!r}", new("context", None, *headers), "context", shown)
        calls = (("context.rejected", 1, ID),)
        record = new("context.rejected", None, *headers, ("kworker-reason", b"crashed"), ("kworker-replay", b"x"))
        t.add(f"attempt {attempt!r}, rejected", record, "rejected", "Reject", calls=calls, attempts=1)
    record = new("greet", b'{"name": "a"}', ("ce_deadline", b"2020-01-01T00:00:00Z"))
    t.add("a deadline that has passed", record, "expired", "expired", attempts=1)
    for deadline in (b"soon", b"", b"2020-01-01", b"99999-01-01T00:00:00Z", b"1e3", b"nan"):
        record = new("greet", b'{"name": "a"}', ("ce_deadline", deadline))
        t.add(f"deadline {deadline!r}", record, "undecodable", "deadline")
    record = new("greet", b'{"name": "a"}', ("traceparent", b"00-zz-\xff-01"), ("ce_replyto", b"__consumer_offsets"))
    t.good("a traceparent that is none, a reply to nowhere", record, "greet", (ID, "a", 1))


def _times(t: _Table) -> None:
    for name, stamp in {"1970": 1, "2100": 4_102_444_800_000}.items():
        record = new("published", None)._replace(timestamp=stamp)
        t.good(name, record, "published", (ID, stamp / 1000))


def _ids(t: _Table) -> None:
    value = b'{"name": "a"}'
    for number in range(1000):
        t.good(f"one id, time {number}", new("greet", value, ("ce_id", b"one")), "greet", ("one", "a", 1))
    digest = "sha256:41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"
    t.good("1,000 bytes", new("greet", value, ("ce_id", b"a" * 1000)), "greet", (digest, "a", 1))
    t.add("1 MiB", new("greet", value, ("ce_id", b"a" * MIB)), "undecodable", "headers_too_large")
    t.good("null", new("greet", value, ("ce_id", None)), "greet", (ID, "a", 1))
    t.good("empty", new("greet", value, ("ce_id", b"")), "greet", (ID, "a", 1))


def _exceptions(t: _Table) -> None:
    t.raised("exception", "ValueError")
    t.raised("group", "ExceptionGroup")
    t.raised("huge", "ValueError")
    t.raised("mute", "faults_plugin.Mute")
    t.raised("memory", "MemoryError")
    t.raised("recursion", "RecursionError")


def _base_exceptions(t: _Table) -> None:
    t.raised("exit", "SystemExit")
    t.raised("sys.exit", "SystemExit")
    t.raised("interrupt", "KeyboardInterrupt")
    t.raised("generator", "GeneratorExit")
    t.raised("stop", "StopIteration")
    t.raised("odd", "faults_plugin.Odd")
    t.raised("cancelled", "asyncio.exceptions.CancelledError")
    t.raised("cancelled.future", "concurrent.futures._base.CancelledError")


def _hanging(t: _Table) -> None:
    for how, code in {"sleep": "timeout", "loop": "timeout", "obedient": "TimeoutError"}.items():
        record = new("hang", json.dumps({"how": how}).encode())
        t.add(how, record, "timed-out", code, calls=(("hang", 1, how),), attempts=1)


def _unpicklable(t: _Table) -> None:
    t.raised("picky", "faults_plugin.Picky")
    t.good("a result that cannot travel", new("return.odd", None), "return.odd", ID)


ROWS = {
    20: _control,
    1: _empty,
    2: _random,
    3: _text,
    4: _deep,
    5: _numbers,
    6: _duplicates,
    7: _digits,
    8: _bloat,
    9: _names,
    10: _arguments,
    15: _overflow,
    16: _compressed,
    19: _headers,
    21: _forged,
    23: _times,
    25: _ids,
    28: _exceptions,
    29: _base_exceptions,
    31: _hanging,
    33: _unpicklable,
}
