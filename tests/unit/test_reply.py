"""Which record answers a call, what it says, and what a caller makes of it: no Kafka here."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.memory import MemoryRecord
from kworker import CallError, PublishError, TaskFailed
from kworker.client import Message
from kworker.client.calls import Call, pass_on, prepare
from kworker.core.reply import Awaited, Returned, SetAside, answer
from kworker.task import Headers

CALL = Awaited("i1", "double", "replies", "tasks.dlq")
RESULT: Headers = [("ce_type", b"double.result"), ("ce_causationid", b"i1"), ("content-type", b"application/json")]
LETTER: Headers = [
    ("ce_id", b"i1"),
    ("kworker-reason", b"rejected"),
    ("kworker-error-type", b"Reject"),
    ("kworker-error-message", b"no \xff"),
]


def waiting(id: str) -> Awaited | None:
    return CALL if id == CALL.id else None


def heard(headers: Headers | None, topic: str, value: bytes | None = b"{}") -> object:
    found = answer(MemoryRecord(headers_given=headers, in_topic=topic, value_given=value), waiting)
    assert found is None or found[0] is CALL
    return found and found[1]


def test_a_result_and_a_dead_letter_answer() -> None:
    assert heard(RESULT, "replies", b"4") == Returned(b"4", "application/json")
    assert heard(RESULT[:2], "replies", None) == Returned(None, "application/json")
    assert heard(LETTER, "tasks.dlq") == SetAside("rejected", "Reject", "no \\xff")
    assert heard(LETTER[:2], "tasks.dlq") == SetAside("rejected", "", "")


@pytest.mark.parametrize(
    ("headers", "topic"),
    [
        (RESULT, "other"),
        (RESULT, "tasks.dlq"),
        (LETTER, "replies"),
        (LETTER, "tasks"),
        (RESULT[1:], "replies"),
        (RESULT[:1], "replies"),
        ([("ce_type", b"triple.result"), *RESULT[1:]], "replies"),
        ([*RESULT, ("ce_causationid", b"i2")], "replies"),
        (LETTER[1:], "tasks.dlq"),
        (LETTER[:1], "tasks.dlq"),
        ([("ce_id", None), *LETTER[1:]], "tasks.dlq"),
        (None, "replies"),
    ],
)
def test_anything_else_answers_nobody(headers: Headers | None, topic: str) -> None:
    assert heard(headers, topic) is None


def test_headers_that_cannot_be_read_answer_nobody() -> None:
    assert answer(MemoryRecord(headers_given=RESULT, in_topic="replies", spoiled=True), waiting) is None


NAMES = st.sampled_from(["ce_type", "ce_causationid", "ce_id", "kworker-reason", "content-type", "x"])


@given(
    st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=8) | st.sampled_from([b"i1", b"double.result"]))),
    st.sampled_from(["replies", "tasks.dlq", "tasks"]),
)
def test_whatever_is_written_there_only_the_call_itself_is_answered(headers: Headers, topic: str) -> None:
    found = dict(headers)
    said = heard(headers, topic)
    if said is not None:
        result = topic == "replies" and found["ce_causationid"] == b"i1" and found["ce_type"] == b"double.result"
        assert result or (topic == "tasks.dlq" and found["ce_id"] == b"i1" and "kworker-reason" in found)


# -- what a caller makes of it ------------------------------------------------------------------------------------


def call(message: Message | None = None, topic: str = "tasks", reply: str | None = "replies", **more: Any) -> Call:
    arguments = {"dead_letters": None, "limit": "10s", **more}
    return prepare(message or Message("double", id="i1"), topic, reply, **arguments)


def test_a_call_asks_for_its_reply() -> None:
    made = call()
    assert made.awaited == CALL
    assert 9 < made.left <= made.limit == 10
    assert ("ce_replyto", b"replies") in made.message.publication.headers
    assert call(Message("double", topic="other", headers={"a": "b"})).awaited.dead_letters == "other.dlq"
    assert call(dead_letters="").awaited.dead_letters == ""
    assert call(Message("double")).awaited.id != call(Message("double")).awaited.id


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reply": None}, r"name a reply topic .* Client\(\.\.\., reply_topic=\)"),
        ({"message": Message("t", headers={"ce_replyto": "x"})}, "give reply_to="),
        ({"message": Message("t", id="ü" * 129)}, "longer than 256 bytes"),
        ({"limit": "soon"}, "cannot call 'double': timeout: 'soon' is not a duration"),
        ({"limit": -1}, "cannot call 'double': timeout: -1 is not between 0 and 10 years"),
        ({"message": Message("_t")}, "is not a task name"),
    ],
)
def test_a_call_that_cannot_be_made_says_why(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(**given)


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (b'{"a": [1, "\xc3\xbc"]}', "application/json", {"a": [1, "ü"]}),
        (b"1", "Application/JSON; charset=utf-8", 1),
        (b"[]", "application/problem+json", []),
        (b"null", "application/json", None),
        (None, "application/json", None),
        (b"\xff", "application/octet-stream", b"\xff"),
        (b"1", "application/avro", b"1"),
    ],
)
def test_a_result_is_read_by_its_content_type(value: bytes | None, kind: str, result: object) -> None:
    assert call().result(Returned(value, kind)) == result


@pytest.mark.parametrize("value", [b"", b"{", b"NaN", b"\xff", b'"\xff"', b"[" * 65, b"1" * 5000, b" " * (9 << 20)])
def test_a_result_that_is_harmful_or_no_json_is_an_error(value: bytes) -> None:
    with pytest.raises(CallError, match="the result of 'double' cannot be read") as error:
        call().result(Returned(value, "application/json"))
    assert error.value.id == "i1"


def test_a_dead_letter_raises() -> None:
    with pytest.raises(TaskFailed, match=r"^'double' failed for good, rejected \(Reject\): no; it is in tasks\.dlq$"):
        call().result(SetAside("rejected", "Reject", "no"))


def test_a_message_that_was_not_acknowledged_ends_the_wait_and_no_other_does() -> None:
    waited: Future[Any] = Future()
    sent: Future[Any] = Future()
    sent.set_result(None)
    pass_on(waited, sent)
    assert not waited.done()
    cancelled: Future[Any] = Future()
    cancelled.cancel()
    pass_on(waited, cancelled)
    assert not waited.done()
    failed: Future[Any] = Future()
    failed.set_exception(PublishError("no"))
    pass_on(waited, failed)
    assert isinstance(waited.exception(0), PublishError)
    pass_on(waited, failed)
