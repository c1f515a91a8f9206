"""The machine finds bugs: each of these is put into the engine, and the machine must say what it breaks.

About half of them were real, and were found by the machine; they stay here so that it never becomes blind to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs

from kworker.core import commits, mark, suspicion
from kworker.core import events as on
from kworker.core.actions import CommitItem
from kworker.core.arrivals import Arrivals
from kworker.core.commits import Commits
from kworker.core.departure import Departure
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.forwarding import Forwarding
from kworker.core.mark import Mark
from kworker.core.metadata import encode
from kworker.core.partition import Partition
from kworker.core.ready import ReadyQueue
from kworker.core.retries import Retries
from kworker.core.suspicion import Suspicion
from kworker.core.watch import Watch
from property.engine_machine import MACHINES, PROFILE

SEARCH = settings(PROFILE, max_examples=4000, derandomize=True, database=None, phases=[Phase.generate])

Patch = Callable[[pytest.MonkeyPatch], None]
BUGS: list[Any] = []


def bug(breaks: str, order: str = "unordered") -> Callable[[Patch], Patch]:
    """Register a bug; `breaks`: how the promise starts that the machine must find broken."""

    def register(patch: Patch) -> Patch:
        BUGS.append(pytest.param(patch, breaks, order, id=patch.__name__))
        return patch

    return register


def wrap(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, around: Callable[..., Any]) -> None:
    """Replace a method by `around(original, self, ...)`."""
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *arguments: around(original, self, *arguments))


# -- commits ------------------------------------------------------------------------------------------------------


@bug("commit:")
def commits_past_an_open_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    def items(original: Any, self: Commits, partitions: Iterable[Partition]) -> list[CommitItem]:
        changed = [partition for partition in partitions if partition.changed]
        return [CommitItem(p.topic_partition, p.epoch, p.tracker.next, "") for p in changed]

    wrap(monkeypatch, Commits, "items", items)


@bug("metadata:")
def forgets_the_highest_finished_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        commits, "encode", lambda base, bounds, alphabet, mark: encode(base, bounds[:-2], alphabet, mark)
    )


@bug("metadata:")
def forgets_what_an_earlier_owner_finished_until_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Partition, "finished_bounds", lambda self: self.tracker.finished_bounds())


@bug("(start|dead letter):")
def runs_again_what_an_earlier_owner_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arrivals, "_restore", lambda self, partition, run: run)


@bug("(commit|part): ")
def takes_a_failed_commit_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(original: Any, self: Commits, partitions: Any, results: list[Any]) -> None:
        original(self, partitions, [(name, epoch, None) for name, epoch, _ in results])

    wrap(monkeypatch, Commits, "answered", answered)


@bug("(commit|metadata|lost):")
def counts_the_end_of_what_it_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_reached(original: Any, self: Engine, event: on.EndReached, *rest: Any) -> None:
        partition = self.partitions.get(event.topic_partition)
        leaving = partition is not None and partition.leaving
        if partition is not None:
            partition.leaving = False
        original(self, event, *rest)
        if partition is not None:
            partition.leaving = leaving

    wrap(monkeypatch, Engine, "_end_reached", end_reached)


# -- epochs, slots and limits ----------------------------------------------------------------------------------------


@bug("(bounded|forward|retries):")
def accepts_results_of_an_earlier_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(original: Any, self: Engine, event: on.Finished, *rest: Any) -> None:
        fenced = [report[0].partition for report in event.reports if report[0].partition.fenced]
        for partition in fenced:
            partition.fenced = False
        original(self, event, *rest)
        for partition in fenced:
            partition.fenced = True

    wrap(monkeypatch, Engine, "_finished", finished)


@bug("(stale|slots|idle|bounded|commit|retries|dead letter|forward):")
def counts_a_report_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(original: Any, self: Engine, event: on.Finished, *rest: Any) -> None:
        for entry, run, *_ in event.reports:
            if not entry.partition.fenced and entry.task.offset in entry.partition.tracker._open:
                entry.run = run
        original(self, event, *rest)

    wrap(monkeypatch, Engine, "_finished", finished)


@bug("idle:")
def leaks_the_slots_of_what_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def withdrawn(original: Any, self: Engine, *rest: Any) -> None:
        free = dict(self._free)
        original(self, *rest)
        self._free = free

    wrap(monkeypatch, Engine, "_withdrawn", withdrawn)


@bug("idle:")
def leaks_the_slots_of_late_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(original: Any, self: Engine, event: on.Finished, *rest: Any) -> None:
        original(self, event, *rest)
        for entry, *_ in event.reports:
            if entry.partition.fenced and self._free[entry.route.executor] > 0:
                self._free[entry.route.executor] -= 1

    wrap(monkeypatch, Engine, "_finished", finished)


@bug("idle:")
def leaks_the_limit_of_what_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def release_limit(original: Any, self: ReadyQueue, entry: Entry) -> None:
        if not entry.partition.leaving:
            original(self, entry)

    wrap(monkeypatch, ReadyQueue, "release_limit", release_limit)


@bug("limit:")
def forgets_the_limit_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(original: Any, self: ReadyQueue, entry: Entry) -> None:
        if entry.attempt > 1 and entry.route.limit is not None:
            entry.route.admitted += 1
            if entry.partition.watch is None or entry.partition.watch.lets(entry):
                self.push(entry)
        else:
            original(self, entry)

    wrap(monkeypatch, ReadyQueue, "admit", admit)


@bug("start:")
def starts_what_it_has_just_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(original: Any, self: ReadyQueue, executor: str, most: int) -> list[Entry]:
        queue = self._queues[executor]
        if self._stale:
            self._drop_leaving()
        return [queue.popleft() for _ in range(min(most, len(queue)))]

    wrap(monkeypatch, ReadyQueue, "take", take)


@bug("bounded:")
def fences_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def fence(original: Any, self: Engine, partitions: Iterable[Partition], *rest: Any) -> None:
        partitions = list(partitions)
        for partition in partitions:
            partition.fenced = False
        original(self, partitions, *rest)

    wrap(monkeypatch, Engine, "_fence", fence)


@bug("stop: drained twice")
def drains_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(original: Any, self: Departure, deadline: float) -> None:
        original(self, deadline)
        self._drained = False

    wrap(monkeypatch, Departure, "stop", stop)


# -- order and retries -----------------------------------------------------------------------------------------------


def _let_the_lane_go_on(original: Any, self: Engine, entry: Entry, *rest: Any) -> None:
    attempt = entry.attempt
    original(self, entry, *rest)
    if entry.attempt > attempt and not entry.partition.leaving:
        self._ready.release_lanes([entry])
        entry.lane = None


@bug("order:", "key")
def releases_the_key_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, Engine, "_decide", _let_the_lane_go_on)


@bug("order:", "partition")
def releases_the_partition_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, Engine, "_decide", _let_the_lane_go_on)


@bug("idle:", "key")
def keeps_the_lane_of_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_aside(original: Any, self: Engine, entry: Entry, *rest: Any) -> None:
        original(self, entry, *rest)
        entry.lane = None

    wrap(monkeypatch, Engine, "_set_aside", set_aside)


@bug("retries:")
def drops_all_retries_on_a_revoke(monkeypatch: pytest.MonkeyPatch) -> None:
    def revoked(original: Any, self: Engine, *rest: Any) -> None:
        original(self, *rest)
        self._retries._waiting.clear()

    wrap(monkeypatch, Engine, "_revoked", revoked)


# -- forwards --------------------------------------------------------------------------------------------------------


@bug("(forward|retry|retries):", "key")
def lets_a_key_wait_in_the_delay_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def put_off(original: Any, self: Retries, entry: Entry, *rest: Any) -> None:
        lane, entry.lane = entry.lane, None
        original(self, entry, *rest)
        entry.lane = lane

    wrap(monkeypatch, Retries, "put_off", put_off)


@bug("(commit|start|metadata):")
def finishes_the_offset_that_a_task_had_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entry, "offset", property(lambda self: self.task.offset))


@bug("(commit|bounded):")
def finishes_a_dead_letter_before_its_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_aside(original: Any, self: Engine, entry: Entry, *rest: Any) -> None:
        original(self, entry, *rest)
        entry.pending = 0
        self._complete_one(entry)

    wrap(monkeypatch, Engine, "_set_aside", set_aside)


@bug("(commit|bounded):")
def finishes_with_the_first_of_several_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    def acknowledged(original: Any, self: Forwarding, forward: Forward) -> bool:
        first = forward.entry.pending > 0
        original(self, forward)
        forward.entry.pending = 0
        return first

    wrap(monkeypatch, Forwarding, "acknowledged", acknowledged)


@bug("(forward|tick):")
def forgets_what_the_broker_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(original: Any, self: Forwarding, *rest: Any) -> None:
        original(self, *rest)
        self._due.clear()

    wrap(monkeypatch, Forwarding, "refused", refused)


@bug("(pause|revoke):")
def takes_one_acknowledgement_for_all_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def acknowledged(original: Any, self: Forwarding, forward: Forward) -> bool:
        failing = forward.entry.partition.failing
        failing -= {other for other in failing if other.entry is forward.entry}
        return bool(original(self, forward))

    wrap(monkeypatch, Forwarding, "acknowledged", acknowledged)


@bug("pause:")
def leaves_a_new_assignment_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    def assigned(original: Any, self: Engine, *rest: Any) -> None:
        self.pressure.paused.clear()
        original(self, *rest)

    wrap(monkeypatch, Engine, "_assigned", assigned)


# -- the crash record ------------------------------------------------------------------------------------------------


@bug("(blame|part):")
def starts_what_the_group_does_not_know_to_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspicion, "_acknowledged", lambda self, current: True)


@bug("(blame|idle):")
def runs_others_beside_what_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspicion, "closed", False)


@bug("(blame|slots):")
def names_before_the_others_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(original: Any, self: Suspicion, running: int, *rest: Any) -> Any:
        return original(self, 0, *rest)

    monkeypatch.setattr(mark, "FEW", 10**6)  # each suspect runs alone
    wrap(monkeypatch, Suspicion, "turn", turn)


@bug("blame:")
def goes_on_before_a_name_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(original: Any, self: Commits, partitions: Any, *rest: Any) -> None:
        original(self, partitions, *rest)
        for partition in partitions.values():
            if partition.watch is not None:
                partition.watch.named = False

    wrap(monkeypatch, Commits, "answered", answered)


@bug("lease:")
def forgets_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(original: Any, self: Suspicion, partition: Partition, *rest: Any) -> Any:
        actions = original(self, partition, *rest)
        if partition.watch is not None:
            partition.watch.raised(2**62)
        return actions

    wrap(monkeypatch, Suspicion, "watch", watch)


@bug("part:")
def goes_on_before_a_part_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark, "FEW", 1)
    monkeypatch.setattr(mark, "PARTS", 2)
    monkeypatch.setattr(Watch, "busy", False)


@bug("part:")
def starts_what_comes_back_beside_the_next_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def lets(original: Any, self: Watch, entry: Entry) -> Any:
        first, self.first = self.first, 0
        let = original(self, entry)
        self.first = first
        return let

    monkeypatch.setattr(mark, "FEW", 1)
    monkeypatch.setattr(mark, "PARTS", 2)
    wrap(monkeypatch, Watch, "lets", lets)


@bug("mark:")
def counts_a_clean_end_as_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mark, "ended", lambda self: self)


@bug("(deaths|suspect|dead letter|attempt):")
def forgets_earlier_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(original: Any, self: Suspicion, entry: Entry) -> Any:
        partition = entry.partition
        if len(partition.mark.deaths.get(entry.task.offset, ())) > 1:
            partition.mark = structs.replace(partition.mark, deaths={})
        return original(self, entry)

    wrap(monkeypatch, Suspicion, "judge", judge)


@bug("(dead letter|attempt):")
def blames_a_record_for_its_first_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "MOST_DEATHS", 1)


@bug("idle: records")
def never_asks_for_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def rewrite(self: Suspicion, partition: Partition, **changes: Any) -> None:
        partition.mark = structs.replace(partition.mark, **changes)

    monkeypatch.setattr(Suspicion, "_rewrite", rewrite)


@pytest.mark.timeout(600)  # found after a few hundred lives; a bug that is not found costs all of them
@pytest.mark.parametrize(("patch", "breaks", "order"), BUGS)
def test_the_machine_finds(patch: Patch, breaks: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)
    with pytest.raises(AssertionError, match=f"^{breaks}"):
        run_state_machine_as_test(MACHINES[order], settings=SEARCH)
