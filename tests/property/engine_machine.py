"""The machine: Hypothesis makes up a life for the engine, and the twin (engine_twin.py) checks every moment of it.

Records come in batches, attempts end in any way and order, reports come late and twice, partitions come, go and are
lost, another worker takes over in between, the process dies and starts again from what it had committed, the broker
refuses and forgets, time jumps, and a stop may come at any moment. In the end everything is let finish, and every
record must have come to its end.
"""

from __future__ import annotations

import os
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kworker.core import events as on
from kworker.core.metadata import Alphabet, encode
from kworker.core.ready import Order
from kworker.task import SUCCESS, Crashed, ErrorInfo, Failed, Outcome, Reason, Refused, Success, TimedOut
from property.engine_twin import Twin
from property.engine_world import KINDS, PLACES, Stored, decoded, publications

PROFILE = settings(
    max_examples=int(os.environ.get("KWORKER_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
"""`KWORKER_EXAMPLES=20000 pytest tests/property` searches for longer."""

_ERROR = ErrorInfo("ValueError", "item 7 is wrong", "Traceback ...")

places = st.sampled_from(PLACES)
some_places = st.lists(places, min_size=1, max_size=3, unique=True)
kinds = st.sampled_from([*KINDS, "plain", "plain", "rare", "light", "shy"])
keys = st.sampled_from([None, b"a", b"b"])
sizes = st.sampled_from([0, 10, 10, 10, 1500])
indexes = st.integers(0, 7)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    [
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
        Crashed(_ERROR),
    ]
)
refusals = st.sampled_from([None, None, None, on.Refusal.TOO_LARGE, on.Refusal.NO_TOPIC, on.Refusal.OTHER])
budgets = st.sampled_from([0.0, 1.0, 10.0])


class EngineMachine(RuleBasedStateMachine):
    """`order` is set by subclasses."""

    order: ClassVar[Order] = "unordered"
    twin: Twin

    @initialize(alphabet=st.sampled_from([Alphabet.WIDE, Alphabet.ASCII, None]))
    def boot(self, alphabet: Alphabet | None) -> None:
        self.twin = Twin(self.order, alphabet)

    def running(self) -> bool:
        return not self.twin.drained

    def polling(self) -> bool:
        """The intake is not inside a rebalance callback."""
        return not self.twin.drained and not self.twin.revokes

    def owning(self) -> bool:
        return self.polling() and bool(self.twin.owned)

    def owned(self, place: on.TopicPartition) -> on.TopicPartition:
        """That one if it is ours, else one that is."""
        return place if place in self.twin.owned else next(iter(self.twin.owned))

    # -- the log ------------------------------------------------------------------------------------------------

    @rule(records=st.lists(st.tuples(places, kinds, keys, sizes), min_size=1, max_size=10))
    def publish(self, records: list[tuple[on.TopicPartition, str, bytes | None, int]]) -> None:
        for place, kind, key, size in records:
            self.twin.logs[place].append(kind, key, size)

    @rule(place=places, length=st.sampled_from([1, 1, 3, 200, 40_000]))
    def leave_a_gap(self, place: on.TopicPartition, length: int) -> None:
        self.twin.logs[place].gap(length)

    @precondition(owning)
    @rule(wanted=st.lists(st.tuples(places, st.integers(1, 8)), min_size=1, max_size=4))
    def poll(self, wanted: list[tuple[on.TopicPartition, int]]) -> None:
        self.twin.poll(wanted)

    @precondition(owning)
    @rule(place=places)
    def reach_the_end(self, place: on.TopicPartition) -> None:
        self.twin.reach_end(self.owned(place))

    @precondition(owning)
    @rule(place=places, back=st.integers(1, 10))
    def deliver_again(self, place: on.TopicPartition, back: int) -> None:
        epoch = self.twin.owned[self.owned(place)]
        epoch.position = max(epoch.start, epoch.position - back)

    @precondition(owning)
    @rule(wanted=st.lists(st.tuples(places, st.integers(1, 5)), max_size=3))
    def lose_a_fetch(self, wanted: list[tuple[on.TopicPartition, int]]) -> None:
        for place, count in wanted:
            epoch = self.twin.owned.get(place)
            if epoch is not None:
                epoch.position += count
        self.twin.send(on.FetchFailed())

    # -- the executors --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.twin.handed)
    @rule(index=indexes)
    def begin(self, index: int) -> None:
        handed = [attempt for attempt in self.twin.handed if attempt not in self.twin.withdrawing]
        if handed:
            handed[index % len(handed)].begun = True

    @precondition(lambda self: self.twin.handed)
    @rule(ends=st.lists(st.tuples(indexes, outcomes), min_size=1, max_size=4))
    def finish(self, ends: list[tuple[int, Outcome]]) -> None:
        handed = [attempt for attempt in self.twin.handed if attempt not in self.twin.withdrawing]
        batch = []
        for index, outcome in ends:
            if handed:
                batch.append((handed.pop(index % len(handed)), outcome))
        self.twin.finish(batch)

    @precondition(lambda self: self.twin.reported)
    @rule(index=indexes, outcome=outcomes)
    def report_late(self, index: int, outcome: Outcome) -> None:
        self.twin.report_again(self.twin.reported[-1 - index % len(self.twin.reported)], outcome)

    @precondition(lambda self: self.twin.withdrawing)
    @rule()
    def answer_withdraw(self) -> None:
        self.twin.answer_withdraw()

    # -- the broker -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.twin.flying)
    @rule(index=indexes, refusal=refusals)
    def answer_forward(self, index: int, refusal: on.Refusal | None) -> None:
        self.twin.answer_forward(self.twin.flying[index % len(self.twin.flying)], refusal)

    @precondition(lambda self: self.twin.commits and not self.twin.revokes)
    @rule(answer=st.sampled_from([(True, True), (True, True), (True, False), (False, False)]))
    def answer_commit(self, answer: tuple[bool, bool]) -> None:
        self.twin.answer_commit(*answer)

    # -- the group --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.polling() and len(self.twin.owned) < len(PLACES))
    @rule(wanted=some_places, start=st.integers(0, 6))
    def assign(self, wanted: list[on.TopicPartition], start: int) -> None:
        free = [place for place in PLACES if place not in self.twin.owned]
        self.twin.assign([place for place in wanted if place in free] or free[:1], start)

    @precondition(owning)
    @rule(place=places, rare=st.integers(0, 3))
    def assign_again_without_a_revoke(self, place: on.TopicPartition, rare: int) -> None:
        if rare == 0:
            self.twin.assign([self.owned(place)])

    @precondition(polling)
    @rule(names=some_places, budget=budgets)
    def revoke(self, names: list[on.TopicPartition], budget: float) -> None:
        self.twin.revoke(names, budget)

    @precondition(polling)
    @rule(names=some_places)
    def lose(self, names: list[on.TopicPartition]) -> None:
        self.twin.lose(names)

    @rule(place=places, ahead=st.integers(0, 8), finished=st.sets(st.integers(0, 9)))
    def let_another_worker_work(self, place: on.TopicPartition, ahead: int, finished: set[int]) -> None:
        twin = self.twin
        if place in twin.owned or twin.revokes:
            return
        before = twin.stored.get(place)
        log = twin.logs[place]
        offset = min((before.offset if before else 0) + ahead, log.end)
        done = {offset + 1 + step for step in finished} | (set(before.finished) if before else set())
        done = {one for one in done if one > offset and one in log.records}
        twin.effects |= {(place, one) for one in [*range(offset), *done]}
        metadata = ""
        if twin.alphabet is not None:
            metadata, _ = encode(offset, [bound for one in sorted(done) for bound in (one, one + 1)], twin.alphabet)
        twin.stored[place] = Stored(offset, metadata, decoded(metadata, offset, log))

    @rule(place=places, text=st.sampled_from(["a tool was here", "kw1wzzzz", "kw1aAAAA", "kw1", "x" * 3500]))
    def overwrite_the_metadata(self, place: on.TopicPartition, text: str) -> None:
        stored = self.twin.stored.get(place)
        if stored is None or place in self.twin.owned:
            return
        foreign = self.twin.engine.foreign_metadata
        self.twin.stored[place] = Stored(stored.offset, text, frozenset())
        if self.polling():
            self.twin.assign([place])
            assert self.twin.engine.foreign_metadata == foreign + 1

    # -- time, the operator, and death --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 1.0, 5.0, 20.0, 100.0, 400.0]))
    def tick(self, seconds: float) -> None:
        self.twin.tick(seconds)

    @precondition(running)
    @rule(rare=st.integers(0, 7))
    def go_quiet(self, rare: int) -> None:
        if rare == 0:
            self.twin.quiet = True
            self.twin.send(on.Quiet())

    @rule(budget=budgets, rare=st.integers(0, 3))
    def stop(self, budget: float, rare: int) -> None:
        if rare == 0 or self.twin.handed or self.twin.flying:
            self.twin.stop(budget)

    @rule(committing=st.booleans(), rare=st.integers(0, 3))
    def die_and_start_again(self, committing: bool, rare: int) -> None:
        if rare and not self.twin.drained:
            return
        if committing and self.twin.commits and not self.twin.revokes:
            self.twin.answer_commit(True, True)
        self.twin.boot()

    # -- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is let finish: then nothing may be left, and everything must be committed."""
        if not hasattr(self, "twin"):
            return
        twin = self.twin
        for _ in range(300):
            before = twin.unfinished, len(twin.handed), len(twin.flying), [e.position for e in twin.owned.values()]
            if twin.withdrawing:
                twin.answer_withdraw()
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
            after = twin.unfinished, len(twin.handed), len(twin.flying), [e.position for e in twin.owned.values()]
            if before == after and not (twin.handed or twin.flying or twin.commits):
                break
        self._check_the_end()

    def _check_the_end(self) -> None:
        twin = self.twin
        assert not twin.handed
        assert not twin.flying
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


MACHINES = {machine.order: machine for machine in (EngineMachine, KeyOrderMachine, PartitionOrderMachine)}
