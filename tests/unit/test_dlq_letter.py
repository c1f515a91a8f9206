"""A dead letter read back: the original told apart from what a worker added, whatever is in either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.deadletters import ERROR, SEEN, STORED, Original, Stored
from kit.records import NewRecord
from kworker.core.deadletter import CUT, FULL, SHORT, fingerprint
from kworker.dlq.letter import MOST_REPLAYS, REPLAY, Letter, read
from kworker.dlq.place import Place
from kworker.dlq.restore import KEY_DECIDES, Refusal, changed, origin_of, restored, whole
from kworker.task import Headers, Reason


class Unreadable(Stored):
    """A header of it has a name that is not UTF-8."""

    def headers(self) -> Headers | None:
        raise SystemError("returned a result with an exception set")


def letter(headers: Headers, key: bytes | None = b"k", value: bytes | None = b"v", level: int = FULL) -> Letter:
    return read(Stored(Original("tasks", 3, 9, key, value, headers).letter(level=level)))


names = st.sampled_from(["ce_type", "task", "", "kworker-reason", "kworker-origin", "kworker-truncated", "kworker-x"])
some_headers = st.lists(st.tuples(names | st.text(max_size=4), st.none() | st.binary(max_size=6)), max_size=8)
parts = st.none() | st.binary(max_size=20)


@given(some_headers, parts, parts, st.sampled_from([FULL, SHORT]))
def test_the_original_comes_back_byte_for_byte_with_one_header(
    headers: Headers, key: bytes | None, value: bytes | None, level: int
) -> None:
    found = letter(headers, key, value, level)
    assert (found.key, found.value, found.headers) == (key, value, headers)
    assert (found.reason, found.error, found.origin) == ("exhausted", "ValueError", Place("tasks", 3, 9))
    record, partition = restored(found, None, MOST_REPLAYS + 2)
    assert (record.topic, partition, record.key, record.value) == ("tasks", 3, key, value)
    assert record.headers[:-1] == headers
    assert record.headers[-1][0] == REPLAY


def test_what_it_says() -> None:
    found = letter([("ce_type", b"a"), ("ce_type", b"mail"), ("task", b"b"), ("ce_id", b"i-1")])
    assert (found.task, found.id, found.message, found.failed_at) == ("mail", "i-1", "item 7 is wrong", SEEN * 1000)
    assert found.fingerprint == fingerprint(Reason.EXHAUSTED, ERROR)
    assert (found.number("attempts"), found.replays, found.truncated, found.fault) == (2, 0, None, "")
    assert letter([]).id == "tasks/3/9"
    assert letter([]).task == ""


def test_the_task_of_a_structured_event_is_in_its_value() -> None:
    kind: Headers = [("content-type", b"application/cloudevents+json")]
    event = b'{"specversion": "1.0", "type": "mail", "id": "i-2", "source": "s", "data": {}}'
    found = letter(kind, value=event)
    assert (found.task, found.id) == ("mail", "i-2")
    assert letter(kind, value=b"{").task == ""


def test_headers_in_another_order_are_those_of_another_writer() -> None:
    made = Stored(
        NewRecord(b"v", b"k", (("kworker-origin", b"t/0/1"), ("a", b"b"), ("kworker-reason", b"rejected")), 0)
    )
    found = read(made)
    assert (found.headers, found.reason, found.origin) == ([("a", b"b")], "rejected", Place("t", 0, 1))


def test_what_is_no_dead_letter_is_read_and_not_put_back() -> None:
    found = read(Stored(NewRecord(b"v", b"k", (("a", b"b"),), 0)))
    assert (found.headers, found.reason, found.origin, found.failed_at) == ([("a", b"b")], "", None, STORED)
    with pytest.raises(Refusal, match="where it came from"):
        restored(found, None, 3)
    assert restored(found, "other", 3).publication.topic == "other"
    with pytest.raises(Refusal, match="not UTF-8"):
        restored(read(Unreadable(NewRecord(b"v", partition=0))), "other", 3)


@pytest.mark.parametrize(
    ("counts", "seen"),
    [([], 0), ([b"1"], 1), ([b"7", b"2"], 2), ([b"-1"], 0), ([b"x"], 0), ([None], 0), ([b""], 0), ([b"9" * 50], 10**6)],
)
def test_a_record_counts_its_replays_and_a_forged_count_is_clamped(counts: list[bytes | None], seen: int) -> None:
    found = letter([("a", b"1"), *((REPLAY, count) for count in counts), ("b", None)])
    assert found.replays == seen
    after = restored(found, None, MOST_REPLAYS + 1).publication.headers
    assert after == [("a", b"1"), ("b", None), (REPLAY, b"%d" % min(seen + 1, 10**6))]


def test_a_loop_ends() -> None:
    found = letter([(REPLAY, b"3")])
    with pytest.raises(Refusal, match="replayed 3 times already: --max-replays 4"):
        restored(found, None, 3)
    assert restored(found, None, 4).publication.headers == [(REPLAY, b"4")]


def test_another_topic_has_other_partitions() -> None:
    assert restored(letter([]), "other", 3).partition == KEY_DECIDES
    assert restored(letter([]), "tasks", 3).partition == 3


def test_a_truncated_letter_is_made_whole_from_its_origin() -> None:
    headers: Headers = [("a", b"b"), ("c", bytes(20_000)), ("kworker-reason", b"forged"), ("d", None)]
    original = NewRecord(b"v" * 100, b"k" * 20_000, tuple(headers), 3)
    cut = letter(headers, original.key, original.value, CUT)
    assert (cut.truncated, cut.value, cut.headers, len(cut.key or b"")) == (100, b"", headers[:1], 16_384)
    assert origin_of(cut) == Place("tasks", 3, 9)
    found = whole(cut, Stored(original, "tasks", 9))
    assert (found.key, found.value, found.headers) == (original.key, original.value, headers)
    for other in (
        original._replace(value=b"v" * 99),
        original._replace(value=None),
        original._replace(key=b"other"),
        original._replace(headers=(("a", b"x"), *headers[1:])),
    ):
        with pytest.raises(Refusal, match="another record"):
            whole(cut, Stored(other, "tasks", 9))
    with pytest.raises(Refusal, match="not UTF-8"):
        whole(cut, Unreadable(original, "tasks", 9))


def test_a_payload_can_be_changed() -> None:
    record = restored(changed(letter([("a", b"1")]), b"new"), None, 3).publication
    assert (record.key, record.value, record.headers) == (b"k", b"new", [("a", b"1"), (REPLAY, b"1")])
