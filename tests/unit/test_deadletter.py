"""Dead letters (WIRE.md): the original byte for byte, the cause in capped headers, smaller when it must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker.core.deadletter import CUT, FULL, SHORT, dead_letter, fingerprint
from kworker.core.entry import Entry
from kworker.core.metadata import Intervals
from kworker.core.partition import Partition
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.task import ErrorInfo, Headers, Publication, Reason, Task, TopicPartition

ERROR = ErrorInfo("ValueError", "item 7 is wrong", "Traceback (most recent call last):\n  line 12\nValueError: item 7")
SMALL = 64 * 1024
ROUTE = Route("mail", "thread", RetryPolicy())


def entry(task: Task, *, run: int = 0, attempt: int = 1) -> Entry:
    partition = Partition(TopicPartition(task.topic, task.partition), 1, 0, Intervals(), None, "letters")
    return Entry(task, partition, ROUTE, 1_764_000_000.5, run=run, attempt=attempt)


def letter(
    headers: Headers, key: bytes | None = b"k", value: bytes | None = b"v", error: ErrorInfo = ERROR, level: int = FULL
) -> Publication:
    task = Task("mail", "tasks", 3, 9, key, value, headers, 0)
    what = entry(task, run=4, attempt=2)
    return dead_letter(what, Reason.EXHAUSTED, error, at=1_764_000_100.25, group="g", worker="w", level=level)


def added(letter: Publication, original: Headers) -> dict[str, bytes | None]:
    new = dict(letter.headers[len(original) :])
    assert len(new) == len(letter.headers) - len(original), "a header twice"
    return new


def size(letter: Publication) -> int:
    return len(letter.key or b"") + len(letter.value or b"") + sum(len(n) + len(v or b"") for n, v in letter.headers)


original_headers = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=20)), max_size=6)
parts = st.none() | st.binary(max_size=50)


@given(original_headers, parts, parts, st.sampled_from([FULL, SHORT]))
def test_the_original_is_kept_byte_for_byte(
    headers: Headers, key: bytes | None, value: bytes | None, level: int
) -> None:
    made = letter(headers, key, value, level=level)
    assert made.topic == "letters"
    assert (made.key, made.value) == (key, value), "null is not empty"
    assert made.headers[: len(headers)] == headers


def test_what_it_says() -> None:
    assert added(letter([("task", b"mail")]), [("task", b"mail")]) == {
        "kworker-reason": b"exhausted",
        "kworker-error-type": b"ValueError",
        "kworker-error-message": b"item 7 is wrong",
        "kworker-error-stack": ERROR.stack.encode(),
        "kworker-error-fingerprint": fingerprint(Reason.EXHAUSTED, ERROR).encode(),
        "kworker-attempts": b"2",
        "kworker-first-seen": b"1764000000500",
        "kworker-failed-at": b"1764000100250",
        "kworker-origin": b"tasks/3/9",
        "kworker-group": b"g",
        "kworker-worker": b"w",
    }


def test_what_never_ran_had_no_attempt() -> None:
    task = Task("_unknown", "tasks", 0, 0, None, b"", [], 0)
    made = dead_letter(entry(task), Reason.UNROUTABLE, ERROR, at=0.0, group="g", worker="w")
    assert dict(made.headers)["kworker-attempts"] == b"0"


def test_forged_headers_stay_and_ours_come_last_and_count() -> None:
    forged: Headers = [("kworker-reason", b"crashed"), ("kworker-origin", b"other/0/0"), ("kworker-attempts", b"-1")]
    made = letter(forged)
    assert made.headers[:3] == forged
    assert dict(made.headers)["kworker-origin"] == b"tasks/3/9"
    assert dict(made.headers)["kworker-attempts"] == b"2"


@given(st.text(max_size=3000), st.text(max_size=5000), st.text(max_size=20_000))
def test_texts_are_capped_and_always_utf8(kind: str, message: str, stack: str) -> None:
    made = dict(letter([], error=ErrorInfo(kind, message, stack)).headers)
    for name, most in (("type", 200), ("message", 2_000), ("stack", 8_000)):
        text = made.get(f"kworker-error-{name}") or b""
        assert len(text) <= most
        text.decode()


def test_what_utf8_cannot_hold_is_escaped() -> None:
    made = dict(letter([], error=ErrorInfo("E", "a\ud800b\x1b\r\n", "")).headers)
    assert made["kworker-error-message"] == b"a\\ud800b\x1b\r\n"
    assert "kworker-error-stack" not in made, "an empty stack is no header"


def test_error_headers_shrink_first() -> None:
    error = ErrorInfo("E" * 500, "m" * 5_000, "s" * 20_000)
    full, short = letter([("h", b"1")], error=error), letter([("h", b"1")], error=error, level=SHORT)
    assert size(full) > 10_000
    assert size(short) < 1_000
    assert (short.key, short.value, short.headers[0]) == (full.key, full.value, ("h", b"1"))
    assert "kworker-truncated" not in dict(short.headers)
    assert dict(short.headers)["kworker-error-fingerprint"] == dict(full.headers)["kworker-error-fingerprint"]


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v" * 1_000_000, [("h", b"1")]),
        (b"k" * 1_000_000, b"v", [("h", b"1")]),
        (b"k", b"v", [("h", b"1"), ("big", b"x" * 1_000_000)]),
        (b"k", b"v", [("h", b"1"), *[("n" * 100, b"")] * 10_000]),
    ],
)
def test_in_the_last_step_whatever_is_huge_is_cut(key: bytes, value: bytes, headers: Headers) -> None:
    made = letter(headers, key, value, level=CUT)
    found = dict(made.headers)
    assert size(made) < SMALL
    assert found["kworker-truncated"] == b"%d" % len(value)
    assert found["kworker-origin"] == b"tasks/3/9", "where the whole record is"
    assert made.value == b""
    assert key.startswith(made.key or b"")
    assert made.headers[0] == ("h", b"1")


def test_a_null_key_stays_null() -> None:
    assert letter([], None, None, level=CUT).key is None


@given(st.integers(0, 10**9), st.integers(0, 2**64))
def test_numbers_and_addresses_make_no_new_fingerprint(number: int, address: int) -> None:
    def of(number: int, address: int) -> str:
        stack = f'File "x.py", line {number}, in run\n    <Thing object at 0x{address:x}>\nValueError: item {number}'
        return fingerprint(Reason.EXHAUSTED, ErrorInfo("ValueError", f"item {number}", stack))

    assert of(number, address) == of(1, 0xABC)
    assert fingerprint(Reason.EXHAUSTED, ErrorInfo("E", f"row {number}")) == fingerprint(
        Reason.EXHAUSTED, ErrorInfo("E", "row 5")
    )


def test_a_fingerprint_tells_errors_apart() -> None:
    prints = {
        fingerprint(Reason.EXHAUSTED, ErrorInfo("E", "row")),
        fingerprint(Reason.CRASHED, ErrorInfo("E", "row")),
        fingerprint(Reason.EXHAUSTED, ErrorInfo("F", "row")),
        fingerprint(Reason.EXHAUSTED, ErrorInfo("E", "column")),
        fingerprint(Reason.EXHAUSTED, ErrorInfo("E", "row", "at a")),
        fingerprint(Reason.EXHAUSTED, ErrorInfo("E", "row", "at b")),
        fingerprint(Reason.EXHAUSTED, ErrorInfo("E", "\ud800")),
    }
    assert len(prints) == 7
    assert all(len(one) == 16 for one in prints)
