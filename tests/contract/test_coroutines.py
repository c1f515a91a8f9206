"""The coroutine executor under the executors' contract, and what is true of its kind only."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from contract import coroutine_tasks
from contract.executor_contract import DEADLINE, SHORT, ExecutorContract, World
from kit import wait_for
from kit.attempts import entry_of, partition, reported
from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.core.entry import Entry
from kworker.executors import coroutines, eventloop
from kworker.executors.base import Executor, Runnable
from kworker.executors.coroutines import CoroutineExecutor
from kworker.mailbox import Mailbox, Report
from kworker.plugin import ExecutorKind
from kworker.task import Failed, Outcome, Success, TimedOut


def publish(*_: object, **__: object) -> Any:
    raise AssertionError("no task here publishes")


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "_GRACE", 0.1)


class TestCoroutines(ExecutorContract):
    kind: ExecutorKind = "coroutine"
    functions = coroutine_tasks.ALL

    def make(self, slots: int, runnables: dict[str, Runnable], mailbox: Mailbox) -> CoroutineExecutor:
        self.before = set(threading.enumerate())
        return CoroutineExecutor(slots, runnables, mailbox, publish)

    def is_stopped(self, executor: Executor, busy: int) -> None:
        def loops() -> bool:
            new = set(threading.enumerate()) - self.before
            return sum(thread.name.startswith("kworker-coroutines-") for thread in new) == min(busy, 1)

        wait_for(loops, DEADLINE, f"{min(busy, 1)} event loops to be left")

    def test_one_that_swallows_its_cancellation_is_lost_and_logged_with_its_stack(
        self, world: World, slots: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        hung = world.submit("hold.short", slots)
        world.reported(hung)
        assert world.executor.lost == slots
        lines = [record for record in caplog.records if record.message.startswith("slot lost")]
        assert {record.id for record in lines} == {entry.task.id for entry in hung}  # type: ignore[attr-defined]  # extra
        assert all("in hold" in record.stack for record in lines)  # type: ignore[attr-defined]  # extra

    def test_cancelled_at_the_deadline_a_task_may_still_succeed(self, world: World) -> None:
        (entry,) = world.submit("heed.short")
        ((_, _, outcome, since, ended),) = world.reported([entry])
        assert outcome == Success(str(entry.task.offset))
        assert ended - since > SHORT
        assert world.executor.lost == 0

    def test_a_cancelled_task_has_timed_out_with_the_place_it_was_at(self, world: World) -> None:
        (entry,) = world.submit("give_up.short")
        ((_, _, outcome, _, _),) = world.reported([entry])
        assert isinstance(outcome, TimedOut)
        assert outcome.error.type == "timeout"
        assert "in give_up" in outcome.error.stack


class Bench:
    """Any functions in an executor of their own."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.made: list[CoroutineExecutor] = []

    def executor(self, slots: int, *functions: Callable[..., Any], timeout: float = 0.0) -> CoroutineExecutor:
        runnables: dict[str, Runnable] = {}
        for function in functions:
            spec = TaskSpec(function.__name__, function, "coroutine", timeout=timeout)
            runnables[spec.name] = SimpleNamespace(spec=spec, signature=Signature(spec))
        self.made.append(CoroutineExecutor(slots, runnables, self.mailbox, publish))
        return self.made[-1]

    def outcomes(self, executor: CoroutineExecutor, entries: list[Entry]) -> list[Outcome]:
        """What became of these, in their order."""
        executor.submit(entries)
        reports: list[Report] = []
        deadline = time.monotonic() + DEADLINE
        while len(reports) < len(entries):
            assert time.monotonic() < deadline, f"only {reports}"
            reports += reported(self.mailbox, 0.02)
            executor.watch(time.monotonic())
        assert len(reports) == len(entries)
        found = {id(report[0]): report[2] for report in reports}
        return [found[id(entry)] for entry in entries]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for executor in made.made:
        executor.stop()


def test_each_attempt_has_context_variables_of_its_own(bench: Bench) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def set_it(n: int) -> int:
        before = variable.get()
        variable.set(n)
        await asyncio.sleep(0)
        assert variable.get() == n
        return before

    entries = [entry_of("set_it", b'{"n": %d}' % n) for n in range(1, 50)]
    assert bench.outcomes(bench.executor(4, set_it), entries) == [Success(0)] * 49


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("first", [True, False])
def test_whatever_a_task_raises_is_its_own_failure(bench: Bench, error: BaseException, first: bool) -> None:
    async def fail() -> None:
        if not first:
            await asyncio.sleep(0)
        raise error

    async def work() -> str:
        await asyncio.sleep(0.001)
        return "done"

    executor = bench.executor(2, fail, work)
    outcomes = bench.outcomes(executor, [entry_of("fail"), entry_of("work"), entry_of("fail"), entry_of("work")])
    assert [type(outcome) for outcome in outcomes] == [Failed, Success, Failed, Success]
    assert len(executor._loops) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_a_task_left_behind_does_not_end_the_loop(bench: Bench, error: type[BaseException]) -> None:
    left: list[asyncio.Task[None]] = []

    async def bomb() -> None:
        raise error

    async def leave() -> None:
        left.append(asyncio.get_running_loop().create_task(bomb()))

    async def work() -> str:
        await asyncio.sleep(0.01)
        return "done"

    executor = bench.executor(2, leave, work)
    assert [type(outcome) for outcome in bench.outcomes(executor, [entry_of("leave"), entry_of("work")])] == [
        Success,
        Success,
    ]
    assert left[0].done()
    assert bench.outcomes(executor, [entry_of("work")]) == [Success("done")]


def test_a_task_that_cancels_all_others_costs_no_slot_and_no_report(bench: Bench) -> None:
    async def rage() -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def work(n: int) -> None:
        await asyncio.sleep(0)

    executor = bench.executor(4, rage, work)
    entries = [entry_of("rage") if n % 3 == 0 else entry_of("work", b'{"n": %d}' % n) for n in range(60)]
    outcomes = bench.outcomes(executor, entries)
    assert any(isinstance(outcome, Failed) and outcome.error.type == "cancelled" for outcome in outcomes)
    assert bench.outcomes(executor, [entry_of("work", b'{"n": 1}')] * 1) == [Success()]
    wait_for(lambda: len(executor._free) == 4, DEADLINE, "all slots to be free")


def test_who_awaits_nothing_shares_a_task_and_finds_nothing_of_the_one_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroutines, "_STRETCH", DEADLINE)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    found = []
    tasks = set()

    async def plain(n: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task.get_name())

    async def leave(n: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        found.append((variable.get(None), task.cancelling()))
        if n % 3 == 0:
            variable.set(n)
        elif n % 3 == 1:
            task.cancel()
        elif n % 2:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):  # it is this task that is cancelled, and nothing else
                    await asyncio.sleep(DEADLINE)

    executor = bench.executor(4, plain, leave)
    assert bench.outcomes(executor, [entry_of("plain", b'{"n": 1}')] * 60) == [Success()] * 60
    assert len(tasks) < 60
    names = ["plain" if n % 5 == 4 else "leave" for n in range(60)]
    entries = [entry_of(name, b'{"n": %d}' % n) for n, name in enumerate(names)]
    assert bench.outcomes(executor, entries) == [Success()] * 60
    assert set(found) == {(None, 0)}
    wait_for(lambda: len(executor._free) == 4, DEADLINE, "all slots to be free")


_KEPT: weakref.WeakKeyDictionary[asyncio.Task[Any], list[int]] = weakref.WeakKeyDictionary()
_LEFT: dict[str, Callable[[asyncio.Task[Any]], object]] = {
    "a late cancellation": lambda task: asyncio.get_running_loop().call_later(0.01, task.cancel),
    "a cancellation taken back": lambda task: (task.cancel(), task.uncancel()),
    "what is kept for it": lambda task: _KEPT.setdefault(task, []).append(1),
    "who waits for its end": lambda task: task.add_done_callback(lambda _: None),
    "a name": lambda task: task.set_name("left"),
}


@pytest.mark.parametrize("left", _LEFT)
def test_what_is_left_at_a_task_is_not_found_by_the_next_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr(coroutines, "_STRETCH", DEADLINE)
    told: list[object] = []

    async def leaves() -> None:
        task = asyncio.current_task()
        assert task is not None
        _LEFT[left](task)

    async def follows() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert (task.get_name() == "left", task in _KEPT) == (False, False)
        told.extend(getattr(task, "_callbacks", None) or ())
        await asyncio.sleep(0.05)

    executor = bench.executor(1, leaves, follows)
    names = ["leaves", "follows"] * 5
    assert bench.outcomes(executor, [entry_of(name, b"{}") for name in names]) == [Success()] * 10
    assert told == []


def test_a_cancellation_that_comes_before_the_first_step_is_not_lost(bench: Bench) -> None:
    place = partition()
    cancelled = threading.Event()

    async def first() -> None:
        assert cancelled.wait(DEADLINE)  # blocks the loop: the second one is made, and has not begun

    async def second(n: int) -> None:
        await asyncio.sleep(n * DEADLINE)

    executor = bench.executor(2, first, second)
    # What awaits is started together; else the second one would not be made before the first has ended.
    assert bench.outcomes(executor, [entry_of("second", b'{"n": 0}')]) == [Success()]
    entries = [entry_of("first"), entry_of("second", b'{"n": 1}', of=place)]
    executor.submit(entries)
    wait_for(lambda: len(executor.running()) == 2, DEADLINE, "both")
    executor.cancel([place])
    cancelled.set()
    reports: list[Report] = []
    while len(reports) < 2:
        new = reported(bench.mailbox, DEADLINE)
        assert new
        reports += new
    outcome = next(report[2] for report in reports if report[0] is entries[1])
    assert isinstance(outcome, Failed)
    assert outcome.error.type.endswith("CancelledError")


def test_bad_input_35_who_blocks_the_loop_is_named_and_another_loop_takes_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coroutines, "_LAG", 0.05)
    end = threading.Event()

    async def block() -> str:
        assert end.wait(DEADLINE)
        return "too late"

    async def neighbour() -> str:
        await asyncio.sleep(0.001)
        return "done"

    executor = bench.executor(2, block, neighbour, timeout=0.2)
    blocked, other = bench.outcomes(executor, [entry_of("block"), entry_of("neighbour")])
    assert isinstance(blocked, TimedOut)
    assert "in block" in blocked.error.stack
    assert isinstance(other, TimedOut | Success)
    assert executor.lost >= 1
    (line,) = [record for record in caplog.records if "event loop is blocked" in record.message]
    assert (line.task, line.levelno) == ("block", logging.WARNING)  # type: ignore[attr-defined]  # extra
    assert "in block" in line.stack  # type: ignore[attr-defined]  # extra
    assert bench.outcomes(executor, [entry_of("neighbour") for _ in range(10)]) == [Success("done")] * 10
    end.set()
    wait_for(lambda: len(_loops()) == 1, DEADLINE, "the end of the loop that was left behind")
    assert reported(bench.mailbox, 0.02) == []


def test_a_loop_blocked_by_a_task_without_a_deadline_is_left_to_what_runs_in_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroutines, "_BLOCKED", 0.1)
    end = threading.Event()

    async def block() -> str:
        assert end.wait(DEADLINE)
        return "late but good"

    async def neighbour() -> str:
        await asyncio.sleep(0.001)
        return "done"

    executor = bench.executor(2, block, neighbour)
    executor.submit([blocked := entry_of("block")])
    wait_for(executor.running, DEADLINE, "it to block")
    for _ in range(3):
        assert bench.outcomes(executor, [entry_of("neighbour")]) == [Success("done")]
    assert [running.entry for running in executor.running()] == [blocked]
    end.set()
    ((entry, _, outcome, _, _),) = reported(bench.mailbox, DEADLINE)
    assert entry is blocked
    assert outcome == Success("late but good")
    assert executor.lost == 0
    wait_for(lambda: len(executor._free) == 2, DEADLINE, "its slot to be free")


def test_a_plain_function_may_run_in_the_loop(bench: Bench) -> None:
    def plain() -> str:
        return asyncio.get_running_loop().__class__.__module__.partition(".")[0]

    (outcome,) = bench.outcomes(bench.executor(1, plain), [entry_of("plain")])
    assert isinstance(outcome, Success)
    assert outcome.result in ("asyncio", "uvloop")


@pytest.mark.parametrize("uv", [True, False])
def test_it_runs_on_asyncio_and_on_uvloop(bench: Bench, monkeypatch: pytest.MonkeyPatch, uv: bool) -> None:
    if uv:
        pytest.importorskip("uvloop", reason="uvloop is an extra")
    else:
        monkeypatch.setattr(eventloop, "_new_loop", asyncio.new_event_loop)

    async def work(n: int) -> str:
        await asyncio.sleep(0.0001 * (n % 3))
        return asyncio.get_running_loop().__class__.__module__.partition(".")[0]

    entries = [entry_of("work", b'{"n": %d}' % n) for n in range(300)]
    assert bench.outcomes(bench.executor(16, work), entries) == [Success("uvloop" if uv else "asyncio")] * 300


def _loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("kworker-coroutines-")]
