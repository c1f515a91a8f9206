"""The records of the delay log: what goes in comes out byte for byte, and hostile ones say what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.deadletters import Stored
from kit.records import NewRecord
from kworker.core.delayed import (
    ATTEMPT,
    DUE,
    ENTRY,
    FIRST_SEEN,
    KEY,
    LONGEST_ID,
    MOST_ATTEMPTS,
    NULL,
    ORIGIN,
    TARGET,
    Answer,
    Outcome,
    Retried,
    answer,
    answered,
    decode,
    delay,
    ends,
    judge,
    request,
    retried,
    retry,
    set_aside,
    tombstone,
)
from kworker.dlq.letter import REPLAY, read
from kworker.dlq.restore import restored
from kworker.task import ErrorInfo, Headers, Publication, Reason

LOG = "kworker.delayed"
NOW = 1_800_000_000_000
NAMES = st.sampled_from([KEY, NULL, TARGET, DUE, ATTEMPT, ORIGIN, "ce_type", "a", ""])
BYTES = st.none() | st.binary(max_size=8)


@given(BYTES, BYTES, st.lists(st.tuples(NAMES, BYTES), max_size=8), st.integers(0, NOW + 10**11))
def test_what_waits_is_handed_over_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: Headers, due: int
) -> None:
    """Null is not empty, and what a publisher forged among its headers stays a header."""
    task = Publication("orders", key, value, headers)
    record = delay(task, "id-1", due / 1000, LOG)
    assert record.value is not None
    assert (record.topic, record.key) == (LOG, b"id-1")
    assert judge(record.key or b"", dict(record.headers), LOG, NOW) == (due, "")
    assert decode(b"id-1", record.value, record.headers, due).publication() == task


@pytest.mark.parametrize(
    "due", [b"nan", b"inf", b"-1", b"1e3", b"", None, b"10" * 10, b"%d" % 10**18, b" 1", b"1.5", "\u0661".encode()]
)
def test_a_due_time_that_is_none_is_told(due: bytes | None) -> None:
    assert DUE in judge(b"id", {DUE: due, TARGET: b"orders"}, LOG, NOW)[1]


def test_a_year_that_never_comes_is_told() -> None:
    assert "ten years" in judge(b"id", {DUE: b"%d" % 8_999_999_999_999_999, TARGET: b"orders"}, LOG, NOW)[1]
    assert judge(b"id", {DUE: b"%d" % (NOW + 9 * 365 * 86_400_000), TARGET: b"orders"}, LOG, NOW)[1] == ""


@pytest.mark.parametrize("target", [None, b"", b"a/b", b"\xff", b"..", b"__consumer_offsets", LOG.encode(), b"a" * 250])
def test_a_target_that_is_none_is_told(target: bytes | None) -> None:
    assert TARGET in judge(b"id", {DUE: b"1", TARGET: target}, LOG, NOW)[1]


def test_ids_have_a_length() -> None:
    task = Publication("orders", None, None, [])
    for id in ("", "x" * (LONGEST_ID + 1)):
        with pytest.raises(ValueError, match="1 to 1024 bytes"):
            delay(task, id, 1.0, LOG)
        assert "id" in judge(id.encode(), {DUE: b"1", TARGET: b"orders"}, LOG, NOW)[1]
    assert delay(task, "x" * LONGEST_ID, -5.0, LOG).headers[-1] == (DUE, b"0")


def test_a_record_of_a_foreign_client_needs_a_due_time_and_a_target_only() -> None:
    headers: Headers = [(DUE, b"5"), ("ce_type", b"mail"), (TARGET, b"orders")]
    assert judge(b"id", dict(headers), LOG, NOW) == (5, "")
    found = decode(b"id", b"{}", headers, 5)
    assert found.publication() == Publication("orders", None, b"{}", [("ce_type", b"mail")])


@given(BYTES, BYTES, st.lists(st.tuples(NAMES, BYTES), max_size=8))
def test_a_retry_comes_back_with_its_attempt_and_its_own_headers(
    key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    info = Retried(3, NOW, "orders/1/42")
    record = retry(key, value, headers, info, due=2.0, group="mail", namespace="kworker")
    assert record.key == b"mail/orders/1/42"
    assert judge(record.key, dict(record.headers), LOG, NOW) == (2000, "")
    back = decode(record.key, record.value, record.headers, 2000).publication()
    assert (back.topic, back.key, back.value) == ("kworker.retry.mail", key, value)
    assert retried(back.headers) == (info, headers)


@pytest.mark.parametrize(
    ("attempt", "expected"), [(b"0", 1), (b"1000000000", MOST_ATTEMPTS), (b"-1", None), (b"x", None), (None, None)]
)
def test_an_attempt_that_was_forged_is_clamped(attempt: bytes | None, expected: int | None) -> None:
    headers: Headers = [("a", b"b"), (ATTEMPT, attempt), (FIRST_SEEN, b"1"), (ORIGIN, b"orders/0/1")]
    found, own = retried(headers)
    assert (found and found.attempt) == expected
    assert own == [("a", b"b")]


@pytest.mark.parametrize("origin", [b"", b"orders", b"orders/x/1", b"a/b/0/1", b"\xff/0/-1", None])
def test_an_origin_that_was_forged_is_not_believed(origin: bytes | None) -> None:
    assert retried([(ATTEMPT, b"1"), (FIRST_SEEN, b"1"), (ORIGIN, origin)])[0] is None


def test_a_tombstone_ends_what_it_names_and_a_bare_one_all_before_it() -> None:
    ours = tombstone(b"id", 7, Outcome.HANDED_OVER, LOG)
    assert ours.value is None
    assert ends(dict(ours.headers), 12) == (7, "handed-over")
    assert ends({}, 12) == (12, "")
    assert ends({ENTRY: b"99"}, 12)[0] == 12
    assert ends({ENTRY: b"-1", "kworker-outcome": b"\xff"}, 12)[0] == 12


def test_a_request_has_a_key_of_its_own_and_one_answer() -> None:
    asked = request(b"id", "t1", LOG)
    assert asked.key != b"id"
    assert asked.value is not None
    for one in Answer:
        told = answer(asked.key or b"", one, LOG)
        assert (told.key, told.value, answered(dict(told.headers))) == (asked.key, None, one)
    assert answered({}) is answered({"kworker-outcome": b"maybe"}) is None


def test_a_record_that_is_set_aside_can_be_put_back_as_it_was() -> None:
    record = delay(Publication("orders", b"k", b"v", [("ce_type", b"mail")]), "id", 5.0, LOG)
    error = ErrorInfo("target", "there is no topic 'orders'")
    times = {"first-seen": 1, "failed-at": 2}
    letter = set_aside(b"id", record.value, record.headers, error, Reason.REJECTED, origin=f"{LOG}/3/9", at=times)
    assert letter.topic == f"{LOG}.dlq"
    found = read(Stored(NewRecord(letter.value, letter.key, tuple(letter.headers)), letter.topic))
    assert (found.reason, found.error, found.message) == ("rejected", "target", "there is no topic 'orders'")
    back = restored(found, None, 3)
    assert (back.publication.topic, back.partition) == (LOG, 3)
    assert (back.publication.key, back.publication.value) == (b"id", b"v")
    assert back.publication.headers[:-1] == record.headers
    assert back.publication.headers[-1][0] == REPLAY
