"""The envelope (WIRE.md): any record gives a task or a reason, and nothing of it is executed, guessed or believed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.memory import MemoryRecord
from kworker.core.wire import MOST_HEADER_BYTES, MOST_HEADERS, UNKNOWN, bare, decode
from kworker.errors import DecodeError
from kworker.task import Headers, Reason, Task

NAMES = {"thumbnail", "mail"}


def read(*headers: tuple[str, bytes | None], default: str | None = None, **parts: Any) -> Task | DecodeError:
    return decode(MemoryRecord(headers_given=list(headers) or None, **parts), NAMES, default)


def task(*headers: tuple[str, bytes | None], default: str | None = None, **parts: Any) -> Task:
    found = read(*headers, default=default, **parts)
    assert isinstance(found, Task), found
    return found


def fault(*headers: tuple[str, bytes | None], default: str | None = None, **parts: Any) -> DecodeError:
    found = read(*headers, default=default, **parts)
    assert isinstance(found, DecodeError), found
    return found


# -- the name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "default", "name"),
    [
        ([("task", b"mail")], None, "mail"),
        ([("ce_type", b"mail")], None, "mail"),
        ([("task", b"thumbnail"), ("ce_type", b"mail")], None, "mail"),
        ([("ce_type", b"mail"), ("task", b"thumbnail")], None, "mail"),
        ([("task", b"thumbnail"), ("task", b"mail")], None, "mail"),
        ([("ce_type", b"../x"), ("ce_type", b"mail")], None, "mail"),
        ([("ce_type", b""), ("task", b"mail")], None, "mail"),
        ([("ce_type", None), ("task", b"mail")], None, "mail"),
        ([("task", b"mail")], "thumbnail", "mail"),
        ([], "thumbnail", "thumbnail"),
        ([("task", b"")], "thumbnail", "thumbnail"),
        ([("x", b"1")], "thumbnail", "thumbnail"),
    ],
)
def test_which_name_counts(headers: Headers, default: str | None, name: str) -> None:
    assert task(*headers, default=default).name == name


def test_no_name_and_no_default_is_unroutable() -> None:
    assert (fault().reason, fault().code) == (Reason.UNROUTABLE, "no_task")
    assert fault(("ce_type", None)).code == "no_task"


@pytest.mark.parametrize(
    "name",
    [
        "Mail",
        "m\u0430il",
        "mail ",
        " mail",
        "mail\0",
        "../mail",
        "__class__",
        "os.system",
        "_unknown",
        "mail\r\nx: y",
        "\x1b[2J",
    ],
)
def test_a_name_that_is_nearly_right_is_unknown(name: str) -> None:
    found = fault(("ce_type", name.encode()), default="mail")
    assert (found.reason, found.code) == (Reason.UNROUTABLE, "unknown_task"), "it does not fall back to the default"
    assert str(found).isprintable()


def test_a_huge_name_is_capped_in_the_error() -> None:
    assert len(str(fault(("ce_type", b"x" * 200_000)))) < 300


# -- the other headers ----------------------------------------------------------------------------------------------


def test_all_of_an_envelope() -> None:
    headers: Headers = [
        ("ce_type", b"mail"),
        ("ce_id", b"i-1"),
        ("content-type", b"application/json"),
        ("ce_deadline", b"2030-01-02T03:04:05Z"),
        ("ce_replyto", b"answers"),
        ("traceparent", b"00-1-2-03"),
    ]
    found = task(*headers, at_offset=7, at_partition=2, in_topic="t", key_given=b"k", value_given=b"[1]")
    size = sum(len(name) + len(value or b"") for name, value in headers) + 4
    assert found == Task(
        "mail",
        "t",
        2,
        7,
        b"k",
        b"[1]",
        headers,
        1_764_000_000_000,
        size,
        "application/json",
        "i-1",
        1893553445.0,
        "answers",
    )
    assert found.id == "i-1"


def test_a_plain_record_is_only_its_parts() -> None:
    found = task(("task", b"mail"), key_given=None, value_given=None)
    assert found == Task("mail", "tasks", 0, 0, None, None, [("task", b"mail")], 1_764_000_000_000, 8)
    assert found.id == "tasks/0/0"


@pytest.mark.parametrize("identity", [None, b""])
def test_no_id_is_its_place(identity: bytes | None) -> None:
    assert task(("task", b"mail"), ("ce_id", identity), at_offset=9).id == "tasks/0/9"


def test_a_huge_id_is_still_one_id_for_one_message() -> None:
    huge = b"x" * 200_000
    found = task(("task", b"mail"), ("ce_id", huge)).id
    assert found == "sha256:" + hashlib.sha256(huge).hexdigest()
    assert task(("task", b"mail"), ("ce_id", b"x" * 256)).id == "x" * 256
    assert found != task(("task", b"mail"), ("ce_id", huge + b"y")).id


def test_the_same_id_again_is_another_task() -> None:
    same = [task(("task", b"mail"), ("ce_id", b"1"), at_offset=offset) for offset in range(1000)]
    assert {found.id for found in same} == {"1"}
    assert len({found.offset for found in same}) == 1000


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2030-01-02T03:04:05Z", 1893553445.0),
        ("2030-01-02T03:04:05.250Z", 1893553445.25),
        ("2030-01-02T05:04:05+02:00", 1893553445.0),
        ("2030-01-02 03:04:05+00:00", 1893553445.0),
        ("1969-12-31T23:59:59Z", -1.0),
        ("0001-01-01T00:00:00+23:59", -62135683140.0),
    ],
)
def test_a_deadline(text: str, when: float) -> None:
    assert task(("task", b"mail"), ("ce_deadline", text.encode())).deadline == when


@pytest.mark.parametrize(
    "raw",
    [b"", b"nan", b"inf", b"-1", b"1000000000000000000", b"1e3", b"year 287168", b"+287168-01-01T00:00:00Z",
     b"2030-01-02T03:04:05", b"2030-01-02", b"tomorrow", b"2030-02-30T00:00:00Z", b"\xff", b"2" * 200_000],
)  # fmt: skip
def test_a_deadline_that_cannot_be_read_is_undecodable(raw: bytes) -> None:
    found = fault(("task", b"mail"), ("ce_deadline", raw))
    assert (found.reason, found.code) == (Reason.UNDECODABLE, "header" if raw == b"\xff" else "deadline")


@pytest.mark.parametrize("name", ["ce_type", "task", "ce_id", "content-type", "ce_replyto", "ce_deadline"])
def test_a_header_that_is_read_must_be_text(name: str) -> None:
    found = fault(("task", b"mail"), (name, b"m\xffail"))
    assert (found.reason, found.code) == (Reason.UNDECODABLE, "header")


def test_a_header_that_is_not_read_may_be_anything() -> None:
    assert task(("task", b"mail"), ("", b"\xff\xfe"), ("x-\r\n\x1b", None), ("kworker-attempt", b"\xff")).name == "mail"


def test_forged_headers_of_ours_are_not_believed() -> None:
    found = task(
        ("task", b"mail"),
        ("kworker-attempt", b"-1"),
        ("kworker-attempt", b"1000000000"),
        ("kworker-origin", b"other/0/0"),
        ("kworker-first-seen", b"0"),
        ("kworker-due", b"99999999999999"),
        ("traceparent", b"not one"),
        at_offset=4,
    )
    assert (found.id, found.topic, found.deadline) == ("tasks/0/4", "tasks", None)


@pytest.mark.parametrize("when", [0, -1, 4_102_444_800_000, -(2**62)])
def test_any_timestamp_is_only_carried(when: int) -> None:
    assert task(("task", b"mail"), time=(1, when)).timestamp == when


# -- too much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        [("h", b"")] * 10_000,
        [("h", None)] * MOST_HEADERS,
        [("h", b"x" * 1_000_000)],
        [("n" * 1_000_000, None)],
        [("h", b"x" * (MOST_HEADER_BYTES // 2))] * 2,
    ],
)
def test_headers_are_bounded(extra: Headers) -> None:
    found = fault(("task", b"mail"), *extra)
    assert (found.reason, found.code) == (Reason.UNDECODABLE, "headers_too_large")


def test_as_many_headers_as_are_allowed() -> None:
    most = MOST_HEADERS - 1
    assert task(("task", b"mail"), *[("h", b"x" * (MOST_HEADER_BYTES // most - 10))] * most).name == "mail"


def test_what_a_record_holds_counts_as_its_size() -> None:
    assert task(("task", b"mail"), ("h", b"x" * 1000), value_given=b"v" * 100, key_given=b"k" * 10).size > 1110
    spoilt = MemoryRecord(headers_given=[("h", b"x" * 1_000_000), ("task", b"mail")], value_given=b"v")
    error = decode(spoilt, NAMES, None)
    assert isinstance(error, DecodeError)
    assert bare(spoilt, error).size > 1_000_000, "what waits for its dead letter is in memory too"


# -- records that cannot be read ------------------------------------------------------------------------------------


def test_a_header_name_that_is_not_text_costs_the_headers_only() -> None:
    record = MemoryRecord(spoiled=True, key_given=b"k", value_given=b"v", at_offset=3)
    found = decode(record, NAMES, "mail")
    assert isinstance(found, DecodeError)
    assert (found.reason, found.code) == (Reason.UNDECODABLE, "header_name")
    assert bare(record, found) == Task(UNKNOWN, "tasks", 0, 3, b"k", b"v", [], 1_764_000_000_000, 2)


def test_a_bare_task_keeps_every_byte() -> None:
    headers: Headers = [("ce_type", b"\xff"), ("x", None), ("ce_type", b"\xff")]
    record = MemoryRecord(headers_given=headers, key_given=b"", value_given=b"\0\xff")
    found = decode(record, NAMES, None)
    assert isinstance(found, DecodeError)
    letter = bare(record, found)
    assert (letter.key, letter.value, letter.headers) == (b"", b"\0\xff", headers)


anything = st.none() | st.binary(max_size=40) | st.sampled_from([b"mail", b"thumbnail", b"2030-01-02T03:04:05Z"])
header_names = st.text(max_size=12) | st.sampled_from(
    ["ce_type", "task", "ce_id", "ce_deadline", "ce_replyto", "content-type", "ce_time", "kworker-attempt"]
)
structured = st.sampled_from(
    [b"application/cloudevents+json", b"application/cloudevents+avro", b"application/CloudEvents"]
)


@given(
    st.lists(st.tuples(header_names, anything) | st.tuples(st.just("content-type"), structured), max_size=12),
    st.none()
    | st.binary(max_size=60)
    | st.sampled_from([b"{}", b'{"type":"mail"}', b'{"type":"mail","deadline":"x"}']),
    st.none() | st.sampled_from(["mail", "gone"]),
)
@example([("ce_deadline", b"9999-12-31T23:59:59-23:59"), ("task", b"mail")], None, None)
def test_every_record_is_a_task_or_a_reason(headers: Headers, value: bytes | None, default: str | None) -> None:
    record = MemoryRecord(headers_given=headers, value_given=value)
    found = decode(record, NAMES, default)
    if isinstance(found, DecodeError):
        assert found.reason in (Reason.UNDECODABLE, Reason.UNROUTABLE)
        assert str(found).isprintable()
        found = bare(record, found)
        assert found.name == UNKNOWN
    else:
        assert found.name in NAMES
        assert found.id
    assert (found.value, found.headers) == (value, headers)
