"""kworker.testing: what plugin authors write their tests with."""

from __future__ import annotations

import msgspec
import pytest

from kworker import Context, Plugin, Reject, Retry, task
from kworker.task import Failed, Refused, Success
from kworker.testing import MemoryWorker, result_of, run_task

flaky_runs: list[int] = []


@task("add")
def add(a: int, b: int = 1) -> int:
    return a + b


@task("flaky", max_attempts=3)
def flaky(*, ctx: Context) -> None:
    flaky_runs.append(ctx.attempt)
    if ctx.attempt < 3:
        raise ConnectionError("not yet")


@task("later", max_attempts=2)
def later() -> None:
    raise Retry("busy", after="10s")


@task("never")
def never() -> None:
    raise Reject("no such thing")


@task("fan-out")
async def fan_out(names: list[str], *, ctx: Context) -> None:
    for name in names:
        ctx.publish("add", {"a": len(name)}, key=name)


class GreeterSettings(msgspec.Struct):
    word: str


class Greeter(Plugin):
    Settings = GreeterSettings

    def setup(self, settings: GreeterSettings) -> None:
        self.word = settings.word

    @task("greet")
    def greet(self, name: str) -> str:
        return f"{self.word} {name}"


def test_one_task_once() -> None:
    assert result_of(run_task(add, {"a": 2})) == 3
    refused = run_task(add, {"a": "two"})
    assert isinstance(refused, Refused)
    assert refused.error.type == "schema"
    with pytest.raises(AssertionError, match="did not succeed"):
        result_of(refused)


def test_retries_wait_for_the_clock_and_hold_the_commit() -> None:
    flaky_runs.clear()
    worker = MemoryWorker(flaky, add)
    worker.publish("flaky")
    worker.publish("add", {"a": 1})
    worker.run()
    worker.advance("900ms")
    assert (worker.succeeded, worker.waiting_retries, worker.committed) == (1, 1, 0)
    worker.advance("100ms")
    assert flaky_runs == [1, 2]
    worker.advance("5s")
    assert flaky_runs == [1, 2, 3]
    assert (worker.succeeded, worker.committed) == (2, 2)
    assert [attempt.at for attempt in worker.attempts if attempt.task == "flaky"] == [0.0, 1.0, 3.0]
    assert not worker.dead_letters


def test_the_wait_that_a_task_asks_for() -> None:
    worker = MemoryWorker(later)
    worker.publish("later")
    worker.advance("9s")
    assert len(worker.attempts) == 1
    worker.advance("2s")
    assert [isinstance(attempt.outcome, Failed) for attempt in worker.attempts] == [True, True]
    assert [letter.reason for letter in worker.dead_letters] == ["exhausted"]


def test_dead_letters_keep_the_record() -> None:
    worker = MemoryWorker(never)
    worker.publish("never", key="k", id="7")
    worker.publish_raw(b"\xff", headers=[("task", b"nothing")])
    worker.run()
    worker.advance("1s")
    assert [(letter.reason, letter.error) for letter in worker.dead_letters] == [
        ("unroutable", "unknown_task"),
        ("rejected", "Reject"),
    ]
    assert worker.dead_letters[0].record.value == b"\xff"
    assert worker.dead_letters[1].record.key == b"k"
    assert worker.committed == 2


def test_a_coroutine_publishes_with_its_success() -> None:
    worker = MemoryWorker(fan_out)
    worker.publish("fan-out", {"names": ["a", "bc"]}, id="up")
    worker.run()
    assert [dict(record.headers)["ce_id"] for record in worker.published] == [b"up/1", b"up/2"]
    assert worker.succeeded == 1


@task("double", reply_to="doubled")
def double(number: int) -> int:
    return number * 2


@task("odd", reply_to="doubled", max_attempts=1)
def odd() -> object:
    return object()


def test_a_result_goes_to_the_reply_topic_of_its_task() -> None:
    worker = MemoryWorker(double)
    worker.publish("double", {"number": 21}, id="q", key="k")
    worker.run()
    (record,) = worker.published
    headers = dict(record.headers)
    assert (record.topic, record.key, record.value) == ("doubled", b"k", b"42")
    assert (headers["ce_type"], headers["ce_id"], headers["ce_causationid"]) == (b"double.result", b"q/result", b"q")


def test_a_result_that_does_not_fit_into_json_is_refused_at_once() -> None:
    worker = MemoryWorker(odd)
    worker.publish("odd")
    worker.run()
    assert [letter.reason for letter in worker.dead_letters] == ["rejected"]
    assert worker.dead_letters[0].message.startswith("the result of 'odd' does not fit into JSON")


@pytest.mark.parametrize(("allowed", "topics"), [((), []), (("replies",), ["replies"])])
def test_a_message_may_ask_for_its_result_on_an_allowed_topic(allowed: tuple[str, ...], topics: list[str]) -> None:
    worker = MemoryWorker(add, reply_topics=allowed)
    worker.publish("add", {"a": 1}, headers={"ce_replyto": "replies"})
    worker.run()
    assert [record.topic for record in worker.published] == topics
    assert worker.succeeded == 1


def test_a_plugin_with_settings() -> None:
    worker = MemoryWorker(Greeter, settings={"Greeter": {"word": "Hello"}})
    worker.publish("greet", {"name": "you"})
    worker.run()
    assert worker.attempts[0].outcome == Success("Hello you")
    with pytest.raises(msgspec.ValidationError, match="word"):
        MemoryWorker(Greeter)


def test_only_tasks_are_taken() -> None:
    with pytest.raises(TypeError, match="@task"):
        MemoryWorker(print)


def test_two_tasks_of_one_name_are_refused_as_a_worker_refuses_them() -> None:
    @task("add")
    def other(a: int) -> int:
        return -a

    with pytest.raises(TypeError, match="two tasks are named 'add'"):
        MemoryWorker(add, other)
    assert MemoryWorker(add, add).succeeded == 0  # one that a module imports from another is the same task


@pytest.mark.parametrize(("moved", "reasons"), [("1h", []), ("3h", ["expired"])])
def test_a_deadline_is_one_of_the_clock_that_is_moved(moved: str, reasons: list[str]) -> None:
    worker = MemoryWorker(add, reply_topics=["replies"])
    worker.advance(moved)
    deadline = "2023-11-15T00:13:20Z"  # two hours after START
    worker.publish("add", {"a": 1}, headers={"ce_deadline": deadline, "ce_replyto": "replies"})
    worker.run()
    assert [letter.reason for letter in worker.dead_letters] == reasons
    assert [reply.headers["ce_time"] for reply in worker.replies] == [b"2023-11-14T23:13:20.000Z"][len(reasons) :]


def test_ctrl_c_ends_the_test_and_is_no_outcome() -> None:
    @task("interrupted")
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(interrupted)


def test_the_id_of_a_schema_needs_the_schema() -> None:
    with pytest.raises(ValueError, match="give the schema as well"):
        MemoryWorker(add).publish("add", {"a": 1}, schema_id=1)
