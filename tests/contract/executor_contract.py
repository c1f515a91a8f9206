"""What every `Executor` does, whatever its slots are: one suite, run for each kind.

A kind's test class inherits from `ExecutorContract` and gives `make`, and its own twins of contract_tasks where plain
functions cannot run in it. `timeout` is that of a task which outlives it; the tests sit that time out, and the grace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from contract import contract_tasks
from kit.attempts import entry_of, partition, reported
from kit.memory import MemoryRecord
from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.events import Assigned, Assignment, Finished, Polled
from kworker.core.partition import Partition
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.executors.base import Executor, Runnable
from kworker.mailbox import Mailbox, Report
from kworker.plugin import ExecutorKind
from kworker.task import Failed, Reason, Refused, Success, TimedOut, TopicPartition

DEADLINE = 15.0
"""Seconds after which a fact that did not come is a failure."""

SHORT = 0.05
"""The timeout, in seconds, of the tasks whose names end in `.short`."""


class World:
    """One executor, everything handed to it, and everything it reported."""

    def __init__(self, executor: Executor, mailbox: Mailbox, folder: Path) -> None:
        self.executor = executor
        self.folder = folder
        self.reports: list[Report] = []
        self._mailbox = mailbox
        self._number = 0

    def submit(self, task: str, count: int = 1, of: Partition | None = None) -> list[Entry]:
        """Hand `count` entries of `task` over, all of them in one call."""
        entries = [self.entry(task, of) for _ in range(count)]
        self.executor.submit(entries)
        return entries

    def entry(self, task: str, of: Partition | None = None) -> Entry:
        """A new entry: its offset is its number."""
        self._number += 1
        payload = msgspec.json.encode({"folder": str(self.folder), "name": str(self._number)})
        return entry_of(task, payload, of=of, offset=self._number)

    def began(self, *entries: Entry) -> bool:
        """Whether all of these have begun."""
        return all((self.folder / f"{entry.task.offset}.began").exists() for entry in entries)

    def end(self, *entries: Entry) -> None:
        """Let these end; without any, all."""
        for name in [str(entry.task.offset) for entry in entries] or ["all"]:
            (self.folder / f"{name}.end").touch()

    def take(self) -> None:
        """Take what was reported, as the loop does, and let the executor watch its deadlines."""
        self.reports += reported(self._mailbox, 0.02)
        self.executor.watch(time.monotonic())

    def until(self, fact: Callable[[], object], what: str) -> None:
        """Be the loop until `fact` is true."""
        deadline = time.monotonic() + DEADLINE
        while not fact():
            assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for {what}; reports: {self.reports}"
            self.take()

    def reported(self, entries: Sequence[Entry]) -> list[Report]:
        """The reports of these, one each, in the order of `entries`."""
        wanted = set(map(id, entries))
        self.until(lambda: len({id(r[0]) for r in self.reports if id(r[0]) in wanted}) == len(wanted), "all reports")
        found = [next(report for report in self.reports if report[0] is entry) for entry in entries]
        assert len([report for report in self.reports if id(report[0]) in wanted]) == len(wanted), "one was doubled"
        return found

    def order(self) -> list[int]:
        """The entries of `note` in the order in which they ran, by number."""
        order = self.folder / "order"
        return [int(line) for line in order.read_text().splitlines()] if order.exists() else []


class ExecutorContract:
    """See the module."""

    kind: ExecutorKind = "thread"
    functions: tuple[Callable[..., Any], ...] = contract_tasks.ALL

    def make(self, slots: int, runnables: dict[str, Runnable], mailbox: Mailbox) -> Executor:
        """An executor of this kind."""
        raise NotImplementedError

    @pytest.fixture
    def slots(self, request: pytest.FixtureRequest) -> int:
        """How many; a test may ask for another number by parametrizing it."""
        return int(getattr(request, "param", 3))

    @pytest.fixture
    def world(self, slots: int, tmp_path: Path) -> Iterator[World]:
        """An executor at work; in the end everything it still runs is let go."""
        runnables: dict[str, Runnable] = {}
        for function in self.functions:
            for suffix, timeout in (("", 0.0), (".short", SHORT)):
                name = function.__name__ + suffix
                spec = TaskSpec(name, function, self.kind, timeout=timeout)
                runnables[name] = SimpleNamespace(spec=spec, signature=Signature(spec))
        mailbox = Mailbox()
        world = World(self.make(slots, runnables, mailbox), mailbox, tmp_path)
        yield world
        world.end()
        world.executor.stop()

    # -- a report for each --------------------------------------------------------------------------------------------

    def test_each_entry_is_reported_once_with_its_run_and_its_times(self, world: World) -> None:
        before = time.monotonic()
        entries = [world.entry("note") for _ in range(50)]
        for number, entry in enumerate(entries):
            entry.run = 2 * number + 1
        world.executor.submit(entries)
        for number, (entry, run, outcome, since, ended) in enumerate(world.reported(entries)):
            assert run == 2 * number + 1
            assert outcome == Success(str(entry.task.offset))
            assert before <= since <= ended <= time.monotonic()
        assert world.executor.running() == []
        assert sorted(world.order()) == [entry.task.offset for entry in entries]

    def test_what_a_task_raises_is_its_outcome_and_its_slot_goes_on(self, world: World, slots: int) -> None:
        for task in ("leave", "interrupt", "refuse"):
            entries = world.submit(task, 2 * slots)
            for _, _, outcome, _, _ in world.reported(entries):
                assert isinstance(outcome, Refused if task == "refuse" else Failed)
                assert not isinstance(outcome, Refused) or outcome.reason is Reason.REJECTED
        entries = world.submit("hold", slots)
        world.until(lambda: world.began(*entries), "every slot to work again")
        assert world.executor.lost == 0

    def test_arguments_that_do_not_fit_are_reported_as_invalid(self, world: World) -> None:
        entry = entry_of("note", b'{"folder": 5}')
        world.executor.submit([entry])
        ((_, _, outcome, _, _),) = world.reported([entry])
        assert isinstance(outcome, Refused)
        assert outcome.reason is Reason.INVALID

    def test_nothing_handed_over_is_nothing_reported(self, world: World) -> None:
        world.executor.submit([])
        world.take()
        assert world.reports == []
        assert world.executor.withdraw() == []

    # -- slots --------------------------------------------------------------------------------------------------------

    def test_no_more_than_its_slots_run_at_once(self, world: World, slots: int) -> None:
        assert world.executor.slots == slots
        entries = world.submit("hold", 2 * slots)
        world.until(lambda: len(world.executor.running()) == slots, "all slots to be busy")
        world.until(lambda: world.began(*entries[:slots]), "the first to begin")
        for first, later in zip(entries[:slots], entries[slots:], strict=True):
            assert not world.began(later)
            assert len(world.executor.running()) <= slots
            world.end(first)
            world.until(partial(world.began, later), "the next in line")
        assert {running.entry.task.offset for running in world.executor.running()} == {
            entry.task.offset for entry in entries[slots:]
        }
        world.end()
        world.reported(entries)

    def test_work_that_comes_one_by_one_uses_every_slot(self, world: World, slots: int) -> None:
        entries: list[Entry] = []
        for _ in range(slots):
            entries += world.submit("hold")
            world.until(partial(world.began, *entries), "one more slot")
        assert len({running.slot for running in world.executor.running()}) == slots

    @pytest.mark.parametrize("slots", [1], indirect=True)
    def test_one_slot_runs_in_the_order_of_submission(self, world: World) -> None:
        entries = [entry for _ in range(5) for entry in world.submit("note", 20)]
        world.reported(entries)
        assert world.order() == [entry.task.offset for entry in entries]

    def test_it_holds_as_many_as_its_capacity(self, world: World, slots: int) -> None:
        capacity = world.executor.capacity
        assert capacity >= slots
        entries = world.submit("hold", slots) + world.submit("note", capacity - slots)
        world.until(lambda: world.began(*entries[:slots]), "all slots to be busy")
        world.end()
        world.reported(entries)

    # -- withdrawal ---------------------------------------------------------------------------------------------------

    def test_what_has_not_begun_of_leaving_partitions_comes_back_and_the_rest_keeps_its_order(
        self, world: World, slots: int
    ) -> None:
        leaving, staying = partition(0), partition(1)
        busy = world.submit("hold", slots, leaving)
        world.until(lambda: world.began(*busy), "all slots to be busy")
        waiting = [world.entry("note", of) for of in (leaving, staying) * 10]
        world.executor.submit(waiting)
        assert world.executor.withdraw() == []  # no partition leaves yet
        leaving.leaving = True
        assert world.executor.withdraw() == [entry for entry in waiting if entry.partition is leaving]
        assert world.executor.withdraw() == []
        kept = [entry for entry in waiting if entry.partition is staying]
        later = world.submit("note", 5, staying)
        world.end(*busy[:1])  # one slot: what it runs, it runs in order
        world.reported(kept + later)
        assert world.order() == [entry.task.offset for entry in kept + later]
        world.end()
        world.reported(busy)  # what had begun is reported, also of a partition that leaves

    def test_an_entry_is_reported_or_withdrawn_and_never_both(self, world: World) -> None:
        entries: list[Entry] = []
        withdrawn: list[Entry] = []
        for round in range(30):
            of = partition()
            entries += world.submit("note", 60, of)
            if round % 2:  # let a slot begin with them
                world.take()
            of.leaving = True
            withdrawn += world.executor.withdraw()
            world.take()
        rest = [entry for entry in entries if entry not in withdrawn]
        world.reported(rest)
        assert len(set(map(id, withdrawn))) == len(withdrawn)
        world.until(lambda: not world.executor.running(), "the end of all")
        world.take()
        assert {id(report[0]) for report in world.reports} == set(map(id, rest))
        assert sorted(world.order()) == [entry.task.offset for entry in rest]

    # -- cancellation -------------------------------------------------------------------------------------------------

    def test_what_runs_of_a_partition_is_asked_to_end_and_nothing_else(self, world: World, slots: int) -> None:
        going, staying = partition(0), partition(1)
        asked = world.submit("heed", slots - 1, going)
        other = world.submit("heed", 1, staying)
        world.until(lambda: world.began(*asked, *other), "all to begin")
        world.executor.cancel([going, partition(2)])
        world.reported(asked)
        assert [running.entry for running in world.executor.running()] == other
        world.end()
        ((_, _, outcome, _, _),) = world.reported(other)
        assert isinstance(outcome, Success)
        assert not (world.folder / f"{other[0].task.offset}.cancelled").exists()

    # -- deadlines ----------------------------------------------------------------------------------------------------

    def test_a_task_that_fails_after_its_deadline_has_timed_out(self, world: World) -> None:
        entries = world.submit("give_up.short", 2)
        for _, _, outcome, _, _ in world.reported(entries):
            assert isinstance(outcome, TimedOut)
        assert world.executor.lost == 0

    def test_a_task_without_a_timeout_is_never_told(self, world: World) -> None:
        (endless,) = world.submit("heed")
        (short,) = world.submit("give_up.short")
        world.reported([short])
        assert [running.entry for running in world.executor.running()] == [endless]
        assert not (world.folder / f"{endless.task.offset}.cancelled").exists()

    def test_a_hung_task_is_reported_as_timed_out_and_its_slot_replaced(self, world: World, slots: int) -> None:
        hung = world.submit("hold.short", slots)
        next_in_line = world.submit("note", 10)
        for _, run, outcome, since, ended in world.reported(hung):
            assert isinstance(outcome, TimedOut)
            assert outcome.error.type == "timeout"
            assert (run, ended > since) == (1, True)
        world.reported(next_in_line)
        again = world.submit("hold", slots)
        world.until(lambda: world.began(*again), "every slot to work again")
        assert len(world.executor.running()) == slots
        world.end()
        world.reported(hung + next_in_line + again)  # once each: what a hung one reports later does not count

    def test_the_engine_takes_no_late_result_of_a_hung_task(self, world: World) -> None:
        place = TopicPartition("tasks", 0)
        spec_name = "hold.short"
        engine = Engine(
            EngineSettings("group", "worker", {self.kind: 10}),
            {spec_name: Route(spec_name, self.kind, RetryPolicy(max_attempts=1))},
            lambda: 0.0,
        )
        engine.handle(Assigned([Assignment(place, 0, None)]), 0.0)
        payload = msgspec.json.encode({"folder": str(world.folder), "name": "1"})
        record = entry_record(spec_name, payload)
        (start,) = engine.handle(Polled([record], time.time()), 0.0)
        (entry,) = start.entries  # type: ignore[union-attr]  # the only action of a record that can run
        world.executor.submit([entry])
        (report,) = world.reported([entry])
        engine.handle(Finished([report], time.time()), 0.0)
        route = engine.routes[spec_name]
        assert (route.failed, route.dead_lettered) == ({"timeout": 1}, {Reason.TIMED_OUT: 1})
        world.end()
        late = (entry, report[1], Success("too late"), report[3], report[4])
        assert engine.handle(Finished([late], time.time()), 0.0) == []
        assert (engine.late_results, route.succeeded, route.failed) == (1, 0, {"timeout": 1})

    # -- the end ------------------------------------------------------------------------------------------------------

    def test_stop_ends_idle_slots_and_waits_for_nothing(self, world: World, slots: int) -> None:
        running = world.submit("hold")
        world.until(lambda: world.began(*running), "it to begin")
        world.reported(world.submit("note", 3 * slots))
        world.executor.stop()
        assert [item.entry for item in world.executor.running()] == running
        self.is_stopped(world.executor, busy=1)
        world.end()
        world.reported(running)
        self.is_stopped(world.executor, busy=0)

    def is_stopped(self, executor: Executor, busy: int) -> None:
        """Wait until all slots but `busy` are gone, by what this kind leaves behind."""
        raise NotImplementedError


def entry_record(task: str, value: bytes) -> MemoryRecord:
    """A record of `task`."""
    return MemoryRecord(0, [("ce_type", task.encode())], None, value)
