"""The executors, each under the one contract, and what is true of its kind only."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from contract.executor_contract import DEADLINE, SHORT, ExecutorContract, World
from kit import wait_for
from kit.attempts import entry_of, partition, reported
from kworker import Context, TaskSpec
from kworker.codecs.arguments import Signature
from kworker.executors import threads
from kworker.executors.base import Executor, Runnable
from kworker.executors.threads import ThreadExecutor
from kworker.mailbox import Mailbox, Report
from kworker.task import Failed, Success, TimedOut


def publish(*_: object, **__: object) -> Any:
    raise AssertionError("no task here publishes")


def runnable(function: Any, timeout: float = 0.0) -> Runnable:
    spec = TaskSpec("t", function, "thread", timeout=timeout)
    made: Runnable = SimpleNamespace(spec=spec, signature=Signature(spec))
    return made


class TestThreads(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _short_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "_GRACE", 0.1)

    def make(self, slots: int, runnables: dict[str, Runnable], mailbox: Mailbox) -> ThreadExecutor:
        self.before = set(threading.enumerate())
        return ThreadExecutor(slots, runnables, mailbox, publish)

    def is_stopped(self, executor: Executor, busy: int) -> None:
        def left() -> bool:
            new = set(threading.enumerate()) - self.before
            return sum(thread.name.startswith("kworker-thread-") for thread in new) == busy

        wait_for(left, DEADLINE, f"{busy} threads to be left")

    def test_a_lost_thread_is_counted_and_logged_with_its_stack(
        self, world: World, slots: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        hung = world.submit("hold.short", slots)
        world.reported(hung)
        assert world.executor.lost == slots
        lines = [record for record in caplog.records if record.message.startswith("slot lost")]
        assert {record.id for record in lines} == {entry.task.id for entry in hung}  # type: ignore[attr-defined]  # extra
        assert all("in hold" in record.stack for record in lines)  # type: ignore[attr-defined]  # extra
        assert all(record.levelno == logging.ERROR for record in lines)

    def test_lost_threads_end_when_their_tasks_do(self, world: World, slots: int) -> None:
        world.reported(world.submit("hold.short", slots))
        world.end()
        world.executor.stop()
        self.is_stopped(world.executor, busy=0)

    def test_the_deadline_sets_cancelled_and_a_task_may_still_succeed(self, world: World) -> None:
        (entry,) = world.submit("heed.short")
        ((_, _, outcome, since, ended),) = world.reported([entry])
        assert outcome == Success(str(entry.task.offset))
        assert ended - since > SHORT
        assert (world.folder / f"{entry.task.offset}.cancelled").exists()
        assert world.executor.lost == 0

    def test_no_thread_is_started_before_it_is_needed(self, world: World) -> None:
        self.is_stopped(world.executor, busy=0)
        for _ in range(20):
            world.reported(world.submit("note"))
        self.is_stopped(world.executor, busy=1)


class _EndsAsItIsGivenUp(ThreadExecutor):
    """Its hung task ends, and its slot finds more work, in the moment between the look and the verdict."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.end = threading.Event()
        self.went_on = threading.Event()

    def stacks(self) -> dict[str, str]:
        self.end.set()
        assert self.went_on.wait(DEADLINE)
        return super().stacks()


@pytest.mark.parametrize("more", [0, 2])
def test_a_task_that_ends_as_it_is_given_up_is_reported_once_and_so_is_the_next(more: int) -> None:
    mailbox = Mailbox()
    names: list[str] = []

    def function(name: str) -> str:
        if name == "hung":
            assert executor.end.wait(DEADLINE)
            if not more:
                executor.went_on.set()
        else:
            names.append(name)
            executor.went_on.set()
        return name

    executor = _EndsAsItIsGivenUp(1, {"t": runnable(function, timeout=0.01)}, mailbox, publish)
    entries = [entry_of("t", b'{"name": "hung"}')] + [entry_of("t", b'{"name": "%d"}' % n) for n in range(more)]
    executor.submit(entries)
    wait_for(executor.running, DEADLINE, "it to begin")
    executor.watch(time.monotonic() + 1000.0)
    reports: list[Report] = []
    while len(reports) <= more:
        new = reported(mailbox, DEADLINE)
        assert new, f"only {reports} were reported"
        reports += new
    executor.stop()
    wait_for(lambda: not executor.running(), DEADLINE, "the end")
    reports += reported(mailbox, 0.02)
    assert sorted(map(id, entries)) == sorted(id(report[0]) for report in reports)
    assert names == [str(n) for n in range(more)]


def test_cancelled_is_set_also_when_the_arguments_were_still_being_read() -> None:
    mailbox = Mailbox()
    reading, cancelled = threading.Event(), threading.Event()

    def function(ctx: Context) -> bool:
        return ctx.cancelled

    class Slow:
        wants_context = True

        def bind(self, task: object) -> tuple[tuple[object, ...], dict[str, object]]:
            reading.set()
            assert cancelled.wait(DEADLINE)
            return (), {}

    place = partition()
    slow: Runnable = SimpleNamespace(spec=TaskSpec("t", function, "thread"), signature=Slow())
    executor = ThreadExecutor(1, {"t": slow}, mailbox, publish)
    executor.submit([entry_of("t", of=place)])
    assert reading.wait(DEADLINE)
    executor.cancel([place])
    cancelled.set()
    ((_, _, outcome, _, _),) = reported(mailbox, DEADLINE)
    executor.stop()
    assert outcome == Success(True)


def test_a_slot_that_looked_idle_to_submit_does_not_keep_work_waiting() -> None:
    """A slot has taken its entry and not yet noted it: `submit` counts it as idle and starts no thread."""
    mailbox = Mailbox()
    end = threading.Event()
    executor = ThreadExecutor(2, {"t": runnable(lambda: end.wait(DEADLINE) and None)}, mailbox, publish)
    executor.submit([entry_of("t")])
    wait_for(executor.running, DEADLINE, "the first")
    (slot,) = executor._slots
    attempt, slot.attempt = slot.attempt, None
    executor.submit([entry_of("t")])
    slot.attempt = attempt
    assert len(executor.running()) == 1
    executor.watch(time.monotonic())
    wait_for(lambda: len(executor.running()) == 2, DEADLINE, "the second")
    end.set()
    executor.stop()


def test_an_idle_slot_keeps_nothing_of_its_last_task() -> None:
    class Result:
        pass

    alive: list[weakref.ref[Result]] = []

    def function() -> Result:
        result = Result()
        alive.append(weakref.ref(result))
        return result

    mailbox = Mailbox()
    executor = ThreadExecutor(1, {"t": runnable(function)}, mailbox, publish)
    executor.submit([entry_of("t")])
    assert mailbox.take(DEADLINE)
    wait_for(lambda: alive[0]() is None, DEADLINE, "the result to be gone")
    executor.stop()


def test_many_failures_at_their_deadline_leave_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that end around the deadline and the grace, each in its own moment: one report each, no slot gone."""
    monkeypatch.setattr(threads, "_GRACE", 0.004)
    mailbox = Mailbox()
    rounds = 400

    def function(n: int) -> None:
        time.sleep(0.002 + (n % 9) * 0.001)
        raise ValueError(n)

    executor = ThreadExecutor(8, {"t": runnable(function, timeout=0.002)}, mailbox, publish)
    entries = [entry_of("t", b'{"n": %d}' % n) for n in range(rounds)]
    executor.submit(entries)
    reports: list[Report] = []
    deadline = time.monotonic() + DEADLINE
    while len(reports) < rounds:
        assert time.monotonic() < deadline, f"{rounds - len(reports)} were not reported"
        reports += reported(mailbox, 0.001)
        executor.watch(time.monotonic())
    assert sorted(map(id, entries)) == sorted(id(report[0]) for report in reports)
    assert {type(report[2]) for report in reports} <= {TimedOut, Failed}
    assert len(executor._slots) == 8
    executor.stop()
