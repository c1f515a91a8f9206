"""Where a task waits for its next attempt, by example; the machine of tests/property looks at all orders of events."""

from __future__ import annotations

import pytest

from kit.memory import MemoryRecord
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.delayed import PUBLISHED, decode, retried
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.retry import RetryPolicy
from kworker.core.returned import Returned, returned
from kworker.core.route import Route
from kworker.core.settings import EngineSettings, TopicRules
from kworker.errors import DecodeError
from kworker.task import ErrorInfo, Failed, Headers, TopicPartition

PLACE, LOG = TopicPartition("tasks", 0), "kworker.delayed"
BACK = TopicPartition("kworker.retry.g", 3)
OWN: Headers = [("task", b"mail"), ("x", None), ("kworker-attempt", b"9"), ("kworker-published", b"1")]


class Run:
    """An engine that runs the tasks `mail` and `slow`, which may wait for long in memory."""

    def __init__(self) -> None:
        rules = {"tasks": TopicRules(None, "tasks.dead")}
        known = EngineSettings("g", "w", {"thread": 8}, delays=True, topics=rules)
        routes = [Route("mail", "thread", RetryPolicy()), Route("slow", "thread", RetryPolicy(), None, 100.0)]
        self.engine = Engine(known, {route.name: route for route in routes}, lambda: 0.0)
        self.now = 0.0
        self.tell(on.Assigned([on.Assignment(PLACE, 0, 0), on.Assignment(BACK, 0, 0)]))

    def tell(self, event: on.Event) -> list[do.Action]:
        return self.engine.handle(event, self.now)

    def start(self, record: MemoryRecord) -> Entry:
        (entry,) = [
            entry
            for action in self.tell(on.Polled([record], 1000.0 + self.now))
            if isinstance(action, do.Start)
            for entry in action.entries
        ]
        return entry

    def fail(self, entry: Entry, after: float | None = None) -> list[do.Action]:
        outcome = Failed(ErrorInfo("ValueError", "7"), after)
        return self.tell(on.Finished([(entry, entry.run, outcome, 0.0, 0.0)], 1000.0 + self.now))


def sent(actions: list[do.Action]) -> list[Forward]:
    return [forward for action in actions if isinstance(action, do.Send) for forward in action.forwards]


def asked(actions: list[do.Action]) -> list[str]:
    return [topic for action in actions if isinstance(action, do.CreateTopics) for _, topic in action.missing]


def test_until_there_is_a_delay_log_it_is_asked_for_once_a_minute() -> None:
    run = Run()
    first, second, third, short = (run.start(MemoryRecord(n, OWN)) for n in range(4))
    assert asked(run.fail(first, 31.0)) == [LOG]
    assert asked(run.fail(second, 500.0)) == []
    run.fail(short, 30.0)
    run.now = 61.0
    assert asked(run.fail(third, 31.0)) == [LOG]
    gone = sent(run.tell(on.LogReady(1061.0)))  # what has less than half a minute left, or was short, stays
    assert {forward.entry.offset: forward.due for forward in gone} == {1: 500.0, 2: 92.0}
    assert run.engine.waiting_retries == 2


def test_a_task_may_have_its_own_limit() -> None:
    run = Run()
    run.tell(on.LogReady(1000.0))
    headers: Headers = [("task", b"slow")]
    assert not sent(run.fail(run.start(MemoryRecord(0, headers)), 100.0))
    assert sent(run.fail(run.start(MemoryRecord(1, headers)), 101.0))


@pytest.mark.parametrize("refusal", list(on.Refusal))
def test_what_the_delay_log_refuses_waits_here_and_holds_nothing_up(refusal: on.Refusal) -> None:
    run = Run()
    run.tell(on.LogReady(1000.0))
    entry = run.start(MemoryRecord(0, OWN))
    (forward,) = sent(run.fail(entry, 40.0))
    actions = run.tell(on.Forwarded([(forward, refusal)]))
    assert [type(action) for action in actions] == [do.CreateTopics] * (refusal is on.Refusal.NO_TOPIC)
    assert not entry.partition.failing
    assert not entry.partition.busy
    run.now = 40.0
    (again,) = [action for action in run.tell(on.Tick()) if isinstance(action, do.Start)]
    assert (again.entries, entry.attempt) == ([entry], 2)


def test_what_comes_back_is_the_task_that_went_and_goes_under_the_same_key() -> None:
    run = Run()
    run.tell(on.LogReady(1000.0))
    went = MemoryRecord(5, OWN, b"k", None, time=(1, 999_000))
    entry = run.start(went)
    (forward,) = sent(run.fail(entry, 40.0))
    written = forward.publication
    waits = decode(written.key or b"", written.value, written.headers, 0)
    assert waits.target == BACK.topic
    run.tell(on.Forwarded([(forward, None)]))
    assert entry.partition.tracker.committable == 6
    assert run.engine.routes["mail"].delayed == 1

    record = MemoryRecord(17, waits.headers, waits.key, waits.value, BACK.partition, BACK.topic)
    again = run.start(record)
    assert (again.task, again.attempt, again.seen) == (entry.task, 2, entry.seen)
    assert (again.offset, again.dead_letter_topic) == (17, "tasks.dead")
    (forward,) = sent(run.fail(again, 40.0))
    assert forward.publication.key == written.key == b"g/tasks/0/5"
    assert retried(forward.publication.headers)[0] is not None


def test_a_reply_that_is_refused_is_counted_once_however_often_its_task_comes_back() -> None:
    run = Run()
    run.tell(on.LogReady(1000.0))
    entry = run.start(MemoryRecord(5, [*OWN, ("ce_replyto", b"elsewhere")], b"k"))
    (forward,) = sent(run.fail(entry, 40.0))
    waits = decode(forward.publication.key or b"", forward.publication.value, forward.publication.headers, 0)
    again = run.start(MemoryRecord(17, waits.headers, waits.key, waits.value, BACK.partition, BACK.topic))
    assert entry.task.reply_to is again.task.reply_to is None
    assert dict(again.task.headers)["ce_replyto"] == b"elsewhere"
    assert run.engine.arrivals.refused_replies == 1


def test_a_task_whose_time_of_publishing_is_not_told_is_a_task_all_the_same() -> None:
    told: Headers = [("kworker-attempt", b"2"), ("kworker-first-seen", b"5"), ("kworker-origin", b"a/1/2")]
    first = returned(MemoryRecord(0, told))
    assert isinstance(first, Returned)
    assert (first.topic(), first.partition(), first.offset(), first.timestamp()[1]) == ("a", 1, 2, 0)
    first = returned(MemoryRecord(0, [*told, (PUBLISHED, b"77")]))
    assert isinstance(first, Returned)
    assert (first.headers(), first.timestamp()[1]) == ([], 77)


@pytest.mark.parametrize("origin", [b"a b/1/2", b"a/1", b"", b"a/1/2/3", b"a/x/2", b"\xff/1/2", b"a/9999999999/2"])
def test_an_origin_that_is_none_makes_no_retry(origin: bytes) -> None:
    told: Headers = [("kworker-attempt", b"2"), ("kworker-first-seen", b"5"), ("kworker-origin", origin)]
    assert isinstance(returned(MemoryRecord(0, told)), DecodeError)
    assert isinstance(returned(MemoryRecord(0, None, spoiled=True)), DecodeError)
