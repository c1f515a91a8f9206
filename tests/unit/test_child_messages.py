"""What a worker and its children say: framing, whatever the cuts; what cannot be encoded; what a child prints."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.attempts import entry_of
from kworker.executors import children
from kworker.executors.child import _sendable
from kworker.executors.children import Output
from kworker.executors.messages import (
    LARGEST,
    Broken,
    Ended,
    Given,
    Line,
    Message,
    Messages,
    Ready,
    Reports,
    Successes,
    pack,
    pack_given,
    pack_message,
    read_given,
)
from kworker.task import ErrorInfo, Failed, Outcome, Postponed, Publication, Reason, Refused, Success, TimedOut

SAID: list[Message] = [
    Ready(),
    Broken("why"),
    Line(20, "kworker.task.x", "text", {"id": "1", "n": 3, "f": 0.5, "b": True, "none": None}),
    Reports([Successes(1, 1.0, [2.0]), Ended(2, 2.0, 3.5, Failed(ErrorInfo("E", "m", "s"), 3.0))]),
    Reports([Ended(3, 0.0, 0.0, Success({"a": [1]}, (Publication("t", b"k", None, [("h", None)]),)))], last=True),
    Reports([Ended(4, 0.0, 0.0, Refused(Reason.INVALID, ErrorInfo("E", "m")))]),
    Reports([Ended(5, 0.0, 0.0, Postponed(ErrorInfo("E", "m"), 2.0))]),
]


def plain(message: Message) -> Any:
    return repr(message)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_messages_are_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(map(pack_message, SAID))
    messages = Messages()
    heard: list[Message] = []
    for cut in [*cuts, len(stream)]:
        heard += messages.feed(stream[:cut])
        stream = stream[cut:]
    assert list(map(plain, heard)) == list(map(plain, SAID))


@pytest.mark.parametrize(
    "stream",
    [b"\xff" * 64, pack(b"\xff" * 8), pack(b""), pack(b"\x91\xa5Other"), pack(b"\x92\xa7Reports\xc0"), pack(b"\x01")],
)
def test_what_is_no_message_is_a_value_error(stream: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(Messages().feed(stream))


def test_random_bytes_are_nonsense_or_incomplete() -> None:
    chance = random.Random(7)
    for _ in range(5_000):
        try:
            heard = list(Messages().feed(pack(chance.randbytes(chance.randrange(40)))))
        except ValueError:
            continue
        raise AssertionError(heard)


def test_tasks_arrive_as_they_were_given() -> None:
    task = entry_of("t", b"\x00\xff", key=b"k", headers=[("h", b"\xfe"), ("h", None)], given_id="id", until=5.0).task
    stream = io.BytesIO(pack_given([Given(7, 2, task), Given(8, 1, task)]))
    arrived = read_given(stream.read)
    assert arrived is not None
    assert [(one.number, one.attempt, one.task) for one in arrived] == [(7, 2, task), (8, 1, task)]
    assert read_given(stream.read) is None


def test_a_header_that_is_no_text_arrives_escaped() -> None:
    task = entry_of("t", b"", headers=[("\udcff", b"x"), ("good", b"y")], content_type="\udcfe", given_id="\udcfd").task
    arrived = read_given(io.BytesIO(pack_given([Given(1, 1, task)])).read)
    assert arrived is not None
    assert arrived[0].task.headers == [("\\udcff", b"x"), ("good", b"y")]
    assert (arrived[0].task.content_type, arrived[0].task.id) == ("\\udcfe", "\\udcfd")


def test_a_message_that_was_cut_off_is_the_end() -> None:
    frame = pack_given([Given(1, 1, entry_of("t").task)])
    for cut in (0, 2, len(frame) - 1):
        assert read_given(io.BytesIO(frame[:cut]).read) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Success(object()),
        Success("x" * (LARGEST + 1)),
        Success("\udcff", (Publication("t", None, b"v", []),)),
        Success(None, (Publication("t", None, b"v", [("\udcff", b"")]),)),
        Success(None, (Publication("t", None, b"v" * (LARGEST + 1), []),)),
        Failed(ErrorInfo("\udcff", "\udcff", "\udcff"), 5.0),
        TimedOut(ErrorInfo("E", "\udcff")),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_what_cannot_travel_becomes_text(outcome: Outcome) -> None:
    sent = _sendable(Ended(1, 2.0, 3.0, outcome))
    frame = pack_message(Reports([sent]))
    assert len(frame) < 1 << 20
    (message,) = Messages().feed(frame)
    assert isinstance(message, Reports)
    (ended,) = message.ended
    assert isinstance(ended, Ended)
    arrived = ended.outcome
    if isinstance(outcome, Success) and not outcome.publish:
        assert isinstance(arrived, Success)
        assert isinstance(arrived.result, str)
    elif isinstance(outcome, Success) and isinstance(arrived, Success):
        assert arrived.publish == outcome.publish
    elif isinstance(outcome, Success):
        assert isinstance(arrived, Failed)
        assert arrived.error.type == "unsendable"
    else:
        assert type(arrived) is type(outcome)
        assert not isinstance(outcome, Failed) or (isinstance(arrived, Failed) and arrived.after == 5.0)


# -- what a child prints ----------------------------------------------------------------------------------------------


def test_output_is_cut_into_lines() -> None:
    output = Output()
    assert output.feed(b"one\ntw") == ["one"]
    assert output.feed(b"o\nthree") == ["two"]
    assert output.used
    assert output.end() == ["three"]
    assert not output.used
    assert output.end() == []


def test_output_of_one_task_is_capped_and_the_next_starts_anew() -> None:
    output = Output()
    lines = [line for _ in range(100) for line in output.feed(b"x" * 10_000 + b"\n")]
    lines += output.end()
    assert sum(map(len, lines)) < children._MOST_OUTPUT + 100
    assert lines[-1] == f"({100 * 10_001 - children._MOST_OUTPUT} bytes more are left out)"
    assert output.feed(b"again\n") == ["again"]


def test_many_short_lines_are_capped_too() -> None:
    output = Output()
    lines = output.feed(b"\n" * 5_000)
    assert len(lines) == children._MOST_LINES
    assert output.end() == [f"({5_000 - children._MOST_LINES} bytes more are left out)"]


def test_the_tail_is_the_end_of_what_was_printed() -> None:
    output = Output()
    output.feed(b"x" * 100_000 + b"the end")
    assert output.tail.endswith(b"the end")
    assert len(output.tail) == children._TAIL
    assert output.feed(b"\xff\xfe\n") == []
