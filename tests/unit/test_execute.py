"""The execute step: every way in which a plugin's function may end, as the outcome it comes to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

import pytest

from kit.attempts import entry_of
from kworker import Context, Reject, Retry, TaskSpec
from kworker.codecs.arguments import Signature
from kworker.core.publication import message
from kworker.errors import DecodeError
from kworker.executors.base import Runnable, describe, execute, outcome_of
from kworker.task import SUCCESS, ErrorInfo, Failed, Outcome, Publication, Reason, Refused, Success


def publication(task: str, payload: object, **given: Any) -> Publication:
    return message(task, payload, now=0.0, **given)


def run(function: Callable[..., Any], value: bytes | None = None, **given: Any) -> Outcome:
    """One attempt of `function`; given: parts of `entry_of`, and `ends`, its deadline, and `started`."""
    spec = TaskSpec("t", function, "thread")
    runnable: Runnable = SimpleNamespace(spec=spec, signature=Signature(spec))
    ends, started = given.pop("ends", None), given.pop("started", lambda context: None)
    return execute(entry_of("t", value, **given), runnable, ends, publication, started)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("value", [object(), {"a": float("nan")}, {1.5: object()}])
def test_a_result_that_json_cannot_hold_is_refused_at_once_and_named(value: object) -> None:
    outcome = run(lambda: value, reply_to="replies")
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.error.type) == (Reason.REJECTED, "result")
    assert outcome.error.message.startswith("the result of 't' ")
    assert "JSON" in outcome.error.message
    assert "publish" not in outcome.error.message


def test_a_result_whose_encoding_raises_ends_its_attempt_only() -> None:
    class Zone(tzinfo):
        def utcoffset(self, when: datetime | None) -> timedelta:
            raise RuntimeError("no such zone")

        dst = tzname = utcoffset  # type: ignore[assignment]  # neither is asked for

    outcome = run(lambda: datetime(2026, 1, 1, tzinfo=Zone()), reply_to="replies")
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, outcome.error.message) == ("RuntimeError", "no such zone")


# -- success ----------------------------------------------------------------------------------------------------


def test_none_is_the_one_success_object() -> None:
    def nothing() -> None: ...

    def nothing_but_a_context(ctx: Context) -> None: ...

    assert run(nothing) is SUCCESS
    assert run(nothing_but_a_context) is SUCCESS


@pytest.mark.parametrize("value", [0, "", [], {}, False, b"", 3.5, object()])
def test_what_is_returned_is_the_result_also_when_it_is_false(value: object) -> None:
    outcome = run(lambda: value)
    assert isinstance(outcome, Success)
    assert outcome.result is value
    assert outcome.publish == ()


def test_arguments_and_context_reach_the_function() -> None:
    seen: dict[str, object] = {}

    def thumbnail(path: str, width: int = 320, *, ctx: Context) -> str:
        seen.update(path=path, width=width, attempt=ctx.attempt, id=ctx.id, deadline=ctx.deadline, at=ctx.offset)
        return "done"

    outcome = run(thumbnail, b'{"path": "a"}', attempt=3, ends=17.0, given_id="x", offset=9)
    assert outcome == Success("done")
    assert seen == {"path": "a", "width": 320, "attempt": 3, "id": "x", "deadline": 17.0, "at": 9}


def test_the_executor_is_told_of_the_context_before_the_function_runs() -> None:
    told: list[Context] = []

    def function(ctx: Context) -> bool:
        told[0].cancel()
        return ctx.cancelled

    assert run(function, started=told.append) == Success(True)


def test_what_a_task_publishes_goes_with_its_success() -> None:
    def function(ctx: Context) -> str:
        ctx.publish("next", {"n": 1})
        ctx.publish("next", b"raw", topic="other", key="k", id="mine")
        return "result"

    outcome = run(function, given_id="parent", topic="here")
    assert isinstance(outcome, Success)
    first, second = outcome.publish
    assert outcome.result == "result"
    assert (first.topic, first.value, dict(first.headers)["ce_id"]) == ("here", b'{"n":1}', b"parent/1")
    assert (second.topic, second.key, second.value) == ("other", b"k", b"raw")
    assert dict(second.headers)["ce_id"] == b"mine"


def test_a_task_that_only_publishes_is_no_plain_success() -> None:
    def function(ctx: Context) -> None:
        ctx.publish("next")

    outcome = run(function)
    assert isinstance(outcome, Success)
    assert outcome is not SUCCESS
    assert len(outcome.publish) == 1


def test_nothing_is_published_by_an_attempt_that_fails_after_it() -> None:
    def function(ctx: Context) -> None:
        ctx.publish("next")
        raise ValueError("late")

    assert isinstance(run(function), Failed)


@pytest.mark.parametrize("arguments", [{"task": ""}, {"task": "t", "payload": object()}, {"task": "t", "id": 5}])
def test_what_cannot_be_published_fails_the_attempt(arguments: Mapping[str, Any]) -> None:
    assert isinstance(run(lambda ctx: ctx.publish(**arguments)), Failed)


# -- what cannot run -----------------------------------------------------------------------------------------------


def takes_a_number(n: int) -> None:
    raise AssertionError("it must not run")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"n": "1"}', Reason.INVALID),
        (b"{}", Reason.INVALID),
        (None, Reason.INVALID),
        (b'{"n": 1, "m": 2}', Reason.INVALID),
        (b'{"n": 1', Reason.UNDECODABLE),
        (b"\xff\xfe", Reason.UNDECODABLE),
        (b"[" * 100_000, Reason.UNDECODABLE),
    ],
)
def test_arguments_that_do_not_fit_are_refused_without_a_run(value: bytes | None, reason: Reason) -> None:
    outcome = run(takes_a_number, value)
    assert isinstance(outcome, Refused)
    assert outcome.reason is reason
    assert outcome.error.type
    assert outcome.error.message
    assert "\n" not in outcome.error.message


def test_a_task_whose_deadline_has_passed_does_not_run() -> None:
    outcome = run(takes_a_number, b'{"n": 1}', until=time.time() - 0.001)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.EXPIRED


def test_a_task_whose_deadline_is_to_come_runs() -> None:
    assert run(lambda: "ran", until=time.time() + 1000) == Success("ran")


# -- what a plugin raises ---------------------------------------------------------------------------------------------


class OwnBase(BaseException):
    pass


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("item 7 is wrong"), "ValueError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(1), "StopIteration"),
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (OwnBase("mine"), f"{__name__}.OwnBase"),
        (TwoArguments(1, 2), f"{__name__}.TwoArguments"),
        (ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])]), "ExceptionGroup"),
        (BaseExceptionGroup("worse", [SystemExit(1), KeyboardInterrupt()]), "BaseExceptionGroup"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_raised_fails_the_attempt_and_nothing_else(error: BaseException, name: str) -> None:
    outcome = run(raising(error))
    assert isinstance(outcome, Failed)
    assert outcome.after is None
    assert outcome.error.type == name
    assert name.rpartition(".")[2] in outcome.error.stack
    assert "raise error" in outcome.error.stack


def test_every_member_of_a_group_is_in_the_stack() -> None:
    group = ExceptionGroup("several", [ValueError("first of them"), KeyError("second of them")])
    outcome = run(raising(group))
    assert isinstance(outcome, Failed)
    assert "first of them" in outcome.error.stack
    assert "second of them" in outcome.error.stack


def test_reject_is_final() -> None:
    outcome = run(raising(Reject("no such customer")))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.error.type, outcome.error.message) == (
        Reason.REJECTED,
        "Reject",
        "no such customer",
    )


@pytest.mark.parametrize(
    ("error", "after"),
    [(Retry(), None), (Retry(after=0), 0.0), (Retry("busy", after="30s"), 30.0), (Retry(after=2.5), 2.5)],
)
def test_retry_says_when(error: Retry, after: float | None) -> None:
    outcome = run(raising(error))
    assert isinstance(outcome, Failed)
    assert outcome.after == after
    assert outcome.error.type == "Retry"


@pytest.mark.parametrize("after", ["soon", -1, float("nan"), float("inf"), "11 years", 1e18])
def test_a_retry_that_is_never_fails_like_any_other_error(after: float | str) -> None:
    def function() -> None:
        raise Retry(after=after)

    outcome = run(function)
    assert isinstance(outcome, Failed)
    assert (outcome.after, outcome.error.type) == (None, "ValueError")


class Unmade(Retry):
    """A subclass that forgets its parent."""

    def __init__(self) -> None:
        pass


class UnmadeFinding(DecodeError):
    def __init__(self) -> None:
        pass


def changed(after: Any) -> Retry:
    error = Retry("changed later")
    error.after = after
    return error


@pytest.mark.parametrize(
    "error", [Unmade(), UnmadeFinding(), changed("soon"), changed(-5.0), changed(float("nan")), changed([1])]
)
def test_an_error_of_ours_that_was_broken_fails_the_attempt(error: BaseException) -> None:
    outcome = run(raising(error))
    assert isinstance(outcome, Failed)
    assert outcome.after is None


def test_a_wait_that_was_changed_is_read_as_a_duration() -> None:
    outcome = run(raising(changed("2m")))
    assert isinstance(outcome, Failed)
    assert outcome.after == 120.0


# -- what travels of an error -----------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__


class NotText(Exception):
    def __str__(self) -> Any:
        return 5


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


@pytest.mark.parametrize("kind", [Mute, Leaving, NotText, Endless])
def test_an_error_that_cannot_be_shown_is_still_an_outcome(kind: type[Exception]) -> None:
    for error in (kind(), ExceptionGroup("with it", [kind()]), chained(kind())):
        outcome = run(raising(error))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error.message, str)
        assert isinstance(outcome.error.stack, str)
    assert "no message" in describe(kind()).message


def chained(cause: BaseException) -> BaseException:
    error = ValueError("because of")
    error.__cause__ = cause
    return error


def test_a_cause_that_is_its_own_cause() -> None:
    error = ValueError("a")
    error.__cause__, error.__context__ = error, error
    assert isinstance(run(raising(error)), Failed)


def test_text_is_capped() -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise ValueError("x" * 50_000_000)

    outcome = run(lambda: deep(500))
    assert isinstance(outcome, Failed)
    assert len(outcome.error.message) == 4_000
    assert 0 < len(outcome.error.stack) <= 16_000


def test_a_long_name_is_capped() -> None:
    kind = type("E" * 10_000, (Exception,), {})
    assert len(describe(kind()).type) == 200


def test_nothing_of_the_error_itself_is_kept() -> None:
    class Weighty(Exception):
        alive = 0

        def __init__(self) -> None:
            type(self).alive += 1

        def __del__(self) -> None:
            type(self).alive -= 1

    def function() -> None:
        raise Weighty

    outcome = run(function)
    assert isinstance(outcome, Failed)
    assert Weighty.alive == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DecodeError(Reason.INVALID, "schema", "n: no"), Refused(Reason.INVALID, ErrorInfo("schema", "n: no"))),
        (Reject(), Refused(Reason.REJECTED, ErrorInfo("Reject", "rejected by the task", "kworker.errors.Reject"))),
    ],
)
def test_outcome_of_an_error_that_was_never_raised(error: BaseException, expected: Refused) -> None:
    outcome = outcome_of(error)
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.error.type, outcome.error.message) == (
        expected.reason,
        expected.error.type,
        expected.error.message,
    )
