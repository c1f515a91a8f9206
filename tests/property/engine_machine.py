"""The machine: Hypothesis makes up a life for the engine, and its twin (engine_twin.py) checks every moment of it.

Records come in batches, attempts end in any way and order, reports come late and twice, partitions come, go and are
lost, another worker takes over in between, the process dies and starts again from what it had committed, the broker
refuses and forgets, time jumps, and a stop may come at any moment. In the end everything is let finish, and every
record must have come to its end.
"""

from __future__ import annotations

import math
import os
from itertools import permutations, product
from typing import ClassVar, get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kworker.core import events as on
from kworker.core import mark
from kworker.core.metadata import Alphabet
from kworker.core.ready import Order
from kworker.task import (
    SUCCESS,
    Crashed,
    ErrorInfo,
    Failed,
    Outcome,
    Postponed,
    Reason,
    Refused,
    Success,
    TimedOut,
    TopicPartition,
)
from property.engine_twin import Marking, Twin
from property.engine_world import KINDS, PLACES, RETRIES, Stored, publications

PROFILE = settings(
    max_examples=int(os.environ.get("KWORKER_EXAMPLES", "300")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
"""`KWORKER_EXAMPLES=20000 pytest tests/property` searches for longer."""

_ERROR = ErrorInfo("ValueError", "item 7 is wrong", "Traceback ...")


# One draw for what belongs together: drawing is what costs most here.
places = st.sampled_from(PLACES)
some_places = st.sampled_from([list(some) for count in (1, 2, 3) for some in permutations(PLACES, count)])
kinds = [*KINDS, "plain", "plain", "rare", "light", "shy"]
markings = st.sampled_from(get_args(Marking))
keyed = [(None, 10), (b"a", 10), (b"a", 0), (b"b", 1500)]
records = st.sampled_from(list(product(PLACES, kinds, keyed)))
wishes = st.lists(st.sampled_from(list(product(PLACES, [1, 2, 3, 8]))), min_size=1, max_size=4)
outcomes: list[Outcome] = [
    SUCCESS,
    SUCCESS,
    Success("a result"),
    Success(None, publications(1)),
    Success(None, publications(3)),
    Failed(_ERROR),
    Failed(_ERROR),
    Failed(_ERROR, 0.0),
    Failed(_ERROR, 40.0),
    Refused(Reason.REJECTED, _ERROR),
    Refused(Reason.INVALID, _ERROR),
    TimedOut(_ERROR),
    Postponed(_ERROR, 5.0),
    Crashed(_ERROR),
]
indexes = range(8)
ends = st.lists(st.sampled_from(list(product(indexes, outcomes))), min_size=1, max_size=4)
refusals = [None, None, None, on.Refusal.TOO_LARGE, on.Refusal.NO_TOPIC, on.Refusal.OTHER]
answers = st.lists(st.sampled_from(list(product(indexes, refusals))), min_size=1, max_size=4)
FOREIGN = ["a tool was here", "kw1", "kw1wzzzz", "kw1aAAAA", "kw2w\u3400\u3400", "x" * 3500]
batches = st.lists(records, min_size=1, max_size=10)
budgets = st.sampled_from([0.0, 1.0, 10.0])

Batch = list[tuple[TopicPartition, str, tuple[bytes | None, int]]]


class EngineMachine(RuleBasedStateMachine):
    """`order` is set by subclasses."""

    order: ClassVar[Order] = "unordered"
    twin: Twin
    deaths = 0  # at the end

    @initialize(alphabet=st.sampled_from([Alphabet.WIDE, Alphabet.ASCII, None]), records=batches)
    def boot(self, alphabet: Alphabet | None, records: Batch) -> None:
        self.twin = Twin(self.order, alphabet)
        self.publish(records, PLACES[0], 0)
        self.twin.assign(PLACES)

    def polling(self) -> bool:
        """The intake is not inside a rebalance callback."""
        return not self.twin.drained and not self.twin.revokes

    def owning(self) -> bool:
        return self.polling() and bool(self.twin.owned)

    def owned(self, place: TopicPartition) -> TopicPartition:
        """That one if it is ours, else one that is."""
        return place if place in self.twin.owned else next(iter(self.twin.owned))

    # -- the log ------------------------------------------------------------------------------------------------

    @rule(records=batches, place=places, gap=st.sampled_from([0, 0, 1, 3, 200, 40_000]))
    def publish(self, records: Batch, place: TopicPartition, gap: int) -> None:
        for where, kind, (key, size) in records:
            self.twin.logs[where].append(kind, key, size)
        self.twin.logs[place].gap(gap)

    @precondition(owning)
    @rule(wanted=wishes, end=places)
    def poll(self, wanted: list[tuple[TopicPartition, int]], end: TopicPartition) -> None:
        self.twin.poll([(self.owned(place), count) for place, count in wanted])
        if self.polling():
            self.twin.reach_end(self.owned(end))

    @precondition(owning)
    @rule(records=batches, wanted=wishes)
    def publish_and_poll(self, records: Batch, wanted: list[tuple[TopicPartition, int]]) -> None:
        self.publish(records, PLACES[0], 0)
        self.twin.poll([(self.owned(place), count) for place, count in wanted])

    @precondition(owning)
    @rule(place=places, back=st.sampled_from([1, 3, 10]), lost=st.sampled_from([0, 1, 4]))
    def fetch_again(self, place: TopicPartition, back: int, lost: int) -> None:
        """The intake goes back: too far by itself, or because a fetch was lost and the engine says where to."""
        epoch = self.twin.owned[self.owned(place)]
        if lost > 0:
            epoch.position += lost
            self.twin.send(on.FetchFailed())
        else:
            epoch.position = max(epoch.start, epoch.position - back)

    # -- the executors ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.twin.handed)
    @rule(begin=st.sampled_from(indexes), ends=ends)
    def run(self, begin: int, ends: list[tuple[int, Outcome]]) -> None:
        handed = [attempt for attempt in self.twin.handed if attempt not in self.twin.withdrawing]
        for attempt in handed[:begin]:
            attempt.begun = True
        batch = [(handed.pop(index % len(handed)), outcome) for index, outcome in ends if handed]
        if any(attempt.deadly for attempt in [*self.twin.handed[:begin], *(attempt for attempt, _ in batch)]):
            self.twin.boot()
            self.twin.assign(PLACES)
        else:
            self.twin.finish(batch)

    @precondition(lambda self: self.twin.reported)
    @rule(index=st.sampled_from(indexes), outcome=st.sampled_from(outcomes))
    def report_late(self, index: int, outcome: Outcome) -> None:
        self.twin.report_again(self.twin.reported[-1 - index % len(self.twin.reported)], outcome)

    @precondition(lambda self: self.twin.withdrawing)
    @rule()
    def answer_withdraw(self) -> None:
        self.twin.answer_withdraw()

    # -- the broker ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.twin.flying)
    @rule(answers=answers)
    def answer_forwards(self, answers: list[tuple[int, on.Refusal | None]]) -> None:
        for index, refusal in answers:
            if self.twin.flying:
                self.twin.answer_forward(self.twin.flying[index % len(self.twin.flying)], refusal)

    @precondition(lambda self: self.twin.commits and not self.twin.revokes)
    @rule(answers=st.lists(st.sampled_from([(True, True), (True, False), (False, False)]), min_size=1, max_size=3))
    def answer_commits(self, answers: list[tuple[bool, bool]]) -> None:
        for applied, told in answers:
            if self.twin.commits:
                self.twin.answer_commit(applied, told)
        self.twin.tick(1.0)  # what the coordinator did not take must be asked for again

    # -- the group ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.polling() and len(self.twin.owned) < len(PLACES))
    @rule(
        wanted=some_places,
        start=st.sampled_from([0, 0, 0, 4]),
        work=st.none() | st.tuples(st.integers(0, 4), st.sets(st.integers(0, 9))),
        foreign=st.none() | st.sampled_from(FOREIGN),
        marking=markings,
    )
    def assign(
        self,
        wanted: list[TopicPartition],
        start: int,
        work: tuple[int, set[int]] | None,
        foreign: str | None,
        marking: Marking,
    ) -> None:
        """Free partitions come to us; before that another worker may have worked, or a tool set the offset."""
        twin = self.twin
        free = [place for place in PLACES if place not in twin.owned]
        wanted = [place for place in wanted if place in free] or free[:1]
        if work is not None:
            twin.let_another_work(wanted[0], *work)
        stored = twin.stored.get(wanted[0])
        if foreign is not None and stored is not None:
            twin.stored[wanted[0]] = Stored(stored.offset, foreign, frozenset())
            twin.forgive(wanted[0])
        known = twin.engine.foreign_metadata
        strange = [place for place in wanted if place in twin.stored and twin.stored[place].metadata in FOREIGN]
        twin.assign(wanted, start, marking)
        assert twin.engine.foreign_metadata == known + len(strange), "metadata: foreign text was not refused"

    @precondition(owning)
    @rule(names=some_places, budget=budgets)
    def revoke(self, names: list[TopicPartition], budget: float) -> None:
        self.twin.revoke(names, budget)

    # -- time, the operator, and death ----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 1.0, 5.0, 20.0, 100.0, 400.0]))
    def tick(self, seconds: float) -> None:
        self.twin.tick(seconds)

    @rule(
        what=st.sampled_from(
            [
                "lose",
                "lose",
                "assign again",
                "assign again",
                "quiet",
                "die",
                "die after the commit",
                "log",
                "log",
                "log",
            ]
        ),
        names=some_places,
    )
    def disturb(self, what: str, names: list[TopicPartition]) -> None:
        """What seldom happens; much of it ends the life of this engine, so it is one rule of many."""
        twin = self.twin
        if what == "lose" and self.owning():
            twin.lose(names)
        elif what == "assign again" and self.owning():  # without a revoke, as when the log was cut
            twin.assign([self.owned(names[0])])
        elif what == "quiet" and not twin.drained:
            twin.quiet = True
            twin.send(on.Quiet())
        elif what == "log" and not twin.drained:
            twin.make_log()
        elif what.startswith("die"):
            if what != "die" and twin.commits and not twin.revokes:
                twin.answer_commit(True, True)
            self.start_again(names)

    @precondition(lambda self: self.twin.handed or self.twin.flying)
    @rule(budget=budgets, behind=st.booleans())
    def stop(self, budget: float, behind: bool) -> None:
        """A signal: what the intake has fetched may be behind it in the mailbox."""
        self.twin.stop(budget)
        if behind and self.owning():
            self.twin.poll([(place, 100) for place in PLACES])
            for place in [*self.twin.owned]:
                self.twin.reach_end(place)

    @precondition(lambda self: self.twin.drained)
    @rule(names=some_places)
    def start_again(self, names: list[TopicPartition]) -> None:
        """The next process."""
        self.twin.boot()
        self.twin.assign(names)

    # -- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is let finish: then nothing may be left, and everything must be committed."""
        if not hasattr(self, "twin") or not self.twin.sound:
            return
        twin = self.twin
        for _ in range(3000):
            before = twin.unfinished, len(twin.handed), len(twin.flying), [e.position for e in twin.owned.values()]
            came_back = len(twin.logs[RETRIES].records)
            if twin.withdrawing:
                twin.answer_withdraw()
            if any(attempt.deadly for attempt in twin.handed):
                self._die_once_more()
            if twin.handed:
                twin.finish([(attempt, SUCCESS) for attempt in twin.handed])
            while twin.flying:
                twin.answer_forward(twin.flying[0], None)
            while twin.commits:
                twin.answer_commit(True, True)
            if not twin.quiet:
                twin.poll([(place, 100) for place in PLACES])
                for place in [*twin.owned]:
                    twin.reach_end(place)
            twin.tick(400.0)
            if len(twin.logs[RETRIES].records) > came_back:
                continue
            after = twin.unfinished, len(twin.handed), len(twin.flying), [e.position for e in twin.owned.values()]
            if before == after and not (twin.handed or twin.flying or twin.commits):
                break
        self._check_the_end()

    def _die_once_more(self) -> None:
        twin = self.twin
        self.deaths += 1
        deadly = sum(record.deadly for log in twin.logs.values() for record in log.records.values())
        # Two that tell nothing, those that leave one part of many suspects, three of its own; and one life may end
        # before the group took it that it began.
        halves = math.ceil(math.log(max(log.end for log in twin.logs.values()) + 1, mark.PARTS))
        assert self.deaths <= (5 + halves) * deadly + 1, f"deaths: {self.deaths} for {deadly} records that kill"
        twin.boot()
        twin.assign(PLACES)

    def _check_the_end(self) -> None:
        twin = self.twin
        assert not twin.handed
        assert not twin.flying
        assert not twin.delay_log, "retry: what waited in the delay log was not handed over"
        assert not twin.revokes, "revoke: never released"
        assert twin.drained is twin.stopping, "stop: never drained"
        if not twin.stopping:
            assert twin.unfinished == 0, "idle: records are left unfinished"
            assert not twin.paused & set(twin.owned), "pause: for ever"
        for place, epoch in twin.owned.items():
            stored = twin.stored.get(place)
            assert stored is not None, "commit: nothing was ever committed"
            assert stored.offset == epoch.committable, "commit: the last offset is missing"
            if not twin.quiet:
                assert stored.offset == epoch.log.end, "commit: it did not come to the end of the log"
                assert not stored.finished
        if not twin.stopping:
            twin.stop(10.0)
            assert twin.drained, "stop: with nothing to do it must end at once"


class KeyOrderMachine(EngineMachine):
    """Each key in log order."""

    order = "key"


class PartitionOrderMachine(EngineMachine):
    """Each partition in log order."""

    order = "partition"


MACHINES: dict[str, type[EngineMachine]] = {
    machine.order: machine for machine in (EngineMachine, KeyOrderMachine, PartitionOrderMachine)
}
