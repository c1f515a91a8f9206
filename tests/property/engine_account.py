"""What an engine asks for, checked against the account of what it should do (engine_world.py), and its state after it.

The promises are the assertions here; each starts with a word that test_seeded_bugs.py looks for. What came before the
first broken one is replayed by Hypothesis, so `sound` keeps the machine from going on after it.
"""

from __future__ import annotations

from collections import Counter, deque

from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.deadletter import CUT
from kworker.core.delayed import Delayed, decode, judge, log_of
from kworker.core.engine import Engine
from kworker.core.forward import Forward
from kworker.core.metadata import Alphabet
from kworker.core.partition import Partition
from kworker.core.ready import Order
from kworker.core.settings import EngineSettings, TopicRules
from kworker.task import Publication, Reason, TopicPartition
from property.engine_world import (
    DEAD_LETTERS,
    DEFAULT_TASK,
    EXECUTORS,
    IN_LANE,
    IN_MEMORY,
    JITTER,
    LIMITS,
    PLACES,
    RETRIES,
    SLOTS,
    WALL,
    Attempt,
    Epoch,
    Log,
    LogRecord,
    Stored,
    decoded,
    routes,
)

LOG = log_of("kworker")
MOST_RECORDS, MOST_BYTES = 14, 12_000


class Account:
    """One engine in its world. `send` hands it an event, performs what it asks for and checks everything."""

    def __init__(self, order: Order, alphabet: Alphabet | None) -> None:
        self.order = order
        self.alphabet = alphabet
        self.now = 100.0
        self.logs = {place: Log(place) for place in PLACES}
        self.stored: dict[TopicPartition, Stored] = {}  # survives the engine
        self.charges: Counter[tuple[TopicPartition, int]] = Counter()  # deaths while the group believed it to run alone
        self.counted: dict[TopicPartition, Stored | None] = {}  # whose death is charged already
        self.effects: set[tuple[TopicPartition, int]] = set()  # succeeded or dead-lettered, and acknowledged
        self.delay_log: dict[bytes, tuple[Delayed, LogRecord]] = {}  # what waits there
        self.boot()

    def boot(self) -> None:
        """A new process: all but the logs, the coordinator and what was done is gone."""
        settings = EngineSettings(
            group="g",
            worker="w",
            slots=SLOTS,
            order=self.order,
            most_records=MOST_RECORDS,
            most_bytes=MOST_BYTES,
            alphabet=self.alphabet,
            delays=True,
            retry_in_memory=IN_MEMORY,
            retry_in_lane=IN_LANE,
            topics={topic: TopicRules(DEFAULT_TASK[topic], DEAD_LETTERS[topic]) for topic in DEAD_LETTERS},
        )
        self.engine = Engine(settings, routes(), lambda: JITTER)
        self.epochs: dict[Partition, Epoch] = {}
        self.owned: dict[TopicPartition, Epoch] = {}
        self.handed: list[Attempt] = []
        self.reported: list[Attempt] = []
        self.withdrawing: list[Attempt] = []
        self.flying: list[Forward] = []
        self.refused: dict[Forward, float] = {}  # to be tried again, and when
        self.commits: deque[list[tuple[do.CommitItem, Epoch]]] = deque()
        self.paused: set[TopicPartition] = set()
        self.suspected: set[TopicPartition] = set()
        self.revokes: list[tuple[list[TopicPartition], list[Epoch], float]] = []
        self.stop_deadline: float | None = None
        self.quiet = self.stopping = self.drained = False
        self.taken = self.lost = 0  # partitions that went away during the stop; of these, with something to commit
        self._letters: dict[tuple[Epoch, int], Reason] = {}  # expected in this step
        self._publications: dict[tuple[Epoch, int], list[Publication]] = {}
        self._waits: dict[tuple[Epoch, int], float] = {}
        self.log_ready, self.ask_at = False, 0.0
        self._resend: set[Forward] = set()
        self._missing: set[str] = set()
        self._owes_withdraw = False
        self.sound = True  # False from the first broken promise on

    # -- events -------------------------------------------------------------------------------------------------

    def send(self, event: on.Event) -> list[do.Action]:
        self.sound = False
        actions = self.engine.handle(event, self.now)
        for action in actions:
            getattr(self, "_" + type(action).__name__.lower())(action)
        if isinstance(event, on.Assigned):
            for place in self.owned.keys() & self.engine.partitions.keys():
                self.epochs.setdefault(self.engine.partitions[place], self.owned[place])
        self._check()
        self.sound = True
        return actions

    @property
    def at(self) -> float:
        return WALL + self.now

    # -- what the engine asks for ---------------------------------------------------------------------------------

    def _start(self, action: do.Start) -> None:
        assert not self.drained, "start: after Drained"
        for entry in action.entries:
            epoch, offset = self.epochs[entry.partition], entry.offset
            name = entry.task.name
            assert action.executor == EXECUTORS[name], "start: in the wrong executor"
            assert not epoch.leaving, "start: of a partition that is leaving"
            assert offset in epoch.open, "start: of a record that is not open"
            assert offset not in epoch.running, "start: an entry runs twice"
            assert offset not in epoch.forwards, "start: of what waits for the broker"
            assert offset not in epoch.retrying, "start: before its retry was due"
            record = epoch.open[offset]
            assert (name, entry.task.key, entry.task.value) == (record.task, record.key(), record.value())
            place = TopicPartition(entry.task.topic, entry.task.partition)
            assert (place, entry.task.offset, entry.task.headers) == (*record.first, record.own)
            assert entry.attempt == epoch.attempts[offset], "attempt: wrong number"
            if entry.partition.watch is not None:
                assert offset < self.stored[epoch.place].mark.lease, "lease: started what the group does not know of"
            lane = record.lane(self.order)
            if lane is not None:
                before = [o for o, r in epoch.open.items() if o < offset and r.lane(self.order) == lane]
                before = [o for o in before if o not in epoch.condemned]
                assert not before, f"order: {offset} started before {before} of its lane"
            attempt = Attempt(entry, entry.run, action.executor, epoch)
            self.handed.append(attempt)
            epoch.running[offset] = attempt
        for executor, slots in SLOTS.items():
            held = sum(attempt.executor == executor for attempt in self.handed)
            assert held <= slots, f"slots: {held} attempts handed to {executor}"
        for name, count in self._crowd().items():
            assert count <= (LIMITS[name] or count), f"limit: {count} of {name} at once"

    def _send(self, action: do.Send) -> None:
        for forward in action.forwards:
            epoch, offset = self._where(forward)
            record, publication = epoch.log.records[offset], forward.publication
            assert not epoch.fenced, "forward: of a fenced partition"
            if forward in self._resend:
                self._resend.remove(forward)
            elif forward.due is not None:
                due = self._waits.pop((epoch, offset), None)
                assert due == forward.due, f"retry: it waits in the delay log until {forward.due}, not {due}"
                epoch.forwards.setdefault(offset, set()).add(forward)
                self._check_wait(epoch, offset, forward)
            elif forward.verdict is None:
                self._publications[epoch, offset].remove(publication)
                epoch.forwards.setdefault(offset, set()).add(forward)
            else:
                expected = self._letters.pop((epoch, offset), None)
                assert expected == forward.verdict.reason, f"dead letter: {forward.verdict.reason}, not {expected}"
                epoch.forwards.setdefault(offset, set()).add(forward)
            if forward.verdict is not None:
                came = record.first[0].topic
                assert publication.topic == DEAD_LETTERS.get(came, f"{came}.dlq")
                assert publication.headers[: len(record.own)] == record.own or forward.level == CUT
                assert publication.key == record.key()
                assert publication.value == (record.value() if forward.level < CUT else b"")
            self.flying.append(forward)

    def _check_wait(self, epoch: Epoch, offset: int, forward: Forward) -> None:
        """What is written to the delay log is the task that comes back at its time."""
        record, written = epoch.log.records[offset], forward.publication
        assert forward.due is not None
        assert written.topic == LOG
        (place, first), id = record.first, written.key or b""
        assert id == f"g/{place}/{first}".encode(), f"retry: another key than before: {id!r}"
        due, wrong = judge(id, dict(written.headers), LOG, int(self.at * 1000))
        assert not wrong
        assert due >= (WALL + forward.due) * 1000 - 0.01, "retry: it would come early"
        task = decode(id, written.value, written.headers, due)
        assert task.target == RETRIES.topic
        assert (task.key, task.value) == (record.key(), record.value())
        assert record.again(RETRIES, 0, task).attempt == epoch.attempts[offset], "attempt: another number travels"

    def _createtopics(self, action: do.CreateTopics) -> None:
        asked = {missing for _, missing in action.missing}
        assert asked == self._missing, f"forward: asked for {asked}, not for {self._missing}"
        self._missing.clear()

    def _commit(self, action: do.Commit) -> None:
        assert action.items
        assert not self.commits, "commit: asked for before the last one was answered"
        self.commits.append([(item, self._checked(item)) for item in action.items])

    def _pause(self, action: do.Pause) -> None:
        assert not self.paused & set(action.partitions), "pause: of what is paused"
        self.paused |= set(action.partitions)

    def _resume(self, action: do.Resume) -> None:
        assert self.paused >= set(action.partitions), "pause: resumed what is not paused"
        self.paused -= set(action.partitions)

    def _seekback(self, action: do.SeekBack) -> None:
        for place, offset in action.positions:
            assert offset == self.owned[place].next, "seek: not to the offset after the last delivered one"
            self.owned[place].position = offset

    def _withdraw(self, action: do.Withdraw) -> None:
        self._owes_withdraw = False
        self.withdrawing += [
            attempt
            for attempt in self.handed
            if not attempt.begun and attempt.entry.partition.leaving and attempt not in self.withdrawing
        ]

    def _cancel(self, action: do.Cancel) -> None:
        for partition in action.partitions:
            assert partition.fenced, "cancel: of a partition that is ours"
            assert self.epochs[partition].running, "cancel: of nothing that runs"

    def _released(self, action: do.Released) -> None:
        names, epochs, deadline = next(revoke for revoke in self.revokes if revoke[0] == action.partitions)
        self.revokes = [revoke for revoke in self.revokes if revoke[0] is not names]
        busy = any(epoch.busy for epoch in epochs)
        assert not busy or self.now >= deadline, "revoke: released before it was drained"
        self._last_commit(action.commit, epochs)

    def _drained(self, action: do.Drained) -> None:
        assert self.stopping, "stop: drained without a stop"
        assert not self.drained, "stop: drained twice"
        self.drained = True
        assert self.stop_deadline is not None
        busy = any(epoch.busy for epoch in self.owned.values())
        assert not busy or self.now >= self.stop_deadline, "stop: drained while something runs"
        epochs = self.owned.values()
        running = sum(len(e.running) + sum(map(len, e.forwards.values())) for e in epochs)
        # The engine may count one whose state went back and forth to what is committed.
        assert running + self.lost <= action.unfinished <= running + self.taken
        self._last_commit(action.commit, list(self.owned.values()))

    def _suspected(self, action: do.Suspected) -> None:
        self.suspected.add(action.topic_partition)
        assert action.times >= 2, "suspect: after one death"
        if action.charged is not None:
            charges = self.charges[action.topic_partition, action.charged]
            assert action.deaths == charges, f"suspect: {action.deaths} deaths, and {charges} of them are known"

    def _cleared(self, action: do.Cleared) -> None:
        self.suspected.remove(action.topic_partition)

    # -- the account ----------------------------------------------------------------------------------------------

    def _checked(self, item: do.CommitItem) -> Epoch:
        epoch = self.owned.get(item.topic_partition)
        assert epoch is not None, "commit: of a partition that is not ours"
        assert not epoch.fenced, "commit: of a fenced partition"
        assert item.offset == epoch.committable, f"commit: {item.offset}, but {epoch.committable} is committable"
        if self.alphabet is None:
            assert item.metadata == ""
        else:
            told = decoded(item.metadata, item.offset, epoch.log)
            assert told == epoch.finished_above, f"metadata: {set(told)}, but finished is {set(epoch.finished_above)}"
        return epoch

    def _store(self, item: do.CommitItem, epoch: Epoch) -> None:
        before = self.stored.get(epoch.place)
        assert before is None or item.offset >= before.offset, "commit: the committed offset fell"
        finished = decoded(item.metadata, item.offset, epoch.log)
        done = {offset for offset in epoch.log.records if offset < item.offset} | finished
        lost = {offset for offset in done if (epoch.place, offset) not in self.effects}
        assert not lost, f"lost: {lost} of {epoch.place} would never run"
        self.stored[epoch.place] = Stored(item.offset, item.metadata, finished)
        epoch.named = self.stored[epoch.place].mark.alone

    def _last_commit(self, items: list[do.CommitItem], epochs: list[Epoch]) -> None:
        for item in items:
            self._store(item, self._checked(item))
        for epoch in epochs:
            if not epoch.fenced:
                stored = self.stored.get(epoch.place)
                epoch.acknowledged = (stored.offset, stored.finished) if stored else None
                assert not epoch.changed, f"commit: given up at {epoch.snapshot}, committed {epoch.acknowledged}"
                if stored is not None and self.alphabet is not None:
                    assert stored.mark.alone is None, "mark: given up, and it names who is not to blame"
                    assert stored.mark.lives < max(1, epoch.lives), "mark: a life that ended well counts as a death"
                self._fence(epoch)

    def _fence(self, epoch: Epoch) -> None:
        epoch.leaving = epoch.fenced = True
        if self.owned.get(epoch.place) is epoch:
            del self.owned[epoch.place]
            self.suspected.discard(epoch.place)

    def _where(self, forward: Forward) -> tuple[Epoch, int]:
        entry = forward.entry
        epoch = self.epochs.get(entry.partition) or self.owned[entry.partition.topic_partition]
        return epoch, entry.offset

    def _crowd(self) -> Counter[str]:
        return Counter(attempt.entry.task.name for attempt in self.handed)

    @property
    def unfinished(self) -> int:
        return sum(len(epoch.open) for epoch in self.owned.values())

    # -- what must be true after every event ----------------------------------------------------------------------

    def _check(self) -> None:
        assert not self._waits, f"retry: none was sent for {self._waits}"
        assert not self._letters, f"dead letter: none was sent for {self._letters}"
        assert not any(self._publications.values()), "forward: a publication was not sent"
        assert not self._resend, "forward: one that is due again was not sent"
        assert not self._missing, "forward: a missing topic was not asked for"
        assert not self._owes_withdraw, "revoke: nothing was withdrawn"
        engine = self.engine
        crowd = self._crowd()
        free = dict(SLOTS)
        for attempt in self.handed:
            free[attempt.executor] -= 1
        dues = [deadline for _, _, deadline in self.revokes]
        named = {(place, epoch.named) for place, epoch in self.owned.items() if epoch.named is not None}
        beside = {(a.epoch.place, a.entry.offset) for a in self.handed} - named if named else set()
        assert not beside, f"blame: {named} is said to run alone, but {beside} runs as well"
        assert len(named) <= 1, f"blame: {named} are said to run alone"
        for attempt in self.handed:
            epoch, offset = attempt.epoch, attempt.entry.offset
            if attempt.entry.partition.watch is not None and epoch.named != offset:
                assert offset >= self.stored[epoch.place].mark.first, f"part: {offset} runs beside others"
        closed = engine.suspicion.closed
        for watch in [partition.watch for partition in engine.suspicion.watched]:
            crowd += Counter(entry.task.name for entry in watch.held) if watch is not None else Counter()
        for place, epoch in self.owned.items():
            partition = engine.partitions[place]
            assert partition.tracker.committable == epoch.committable, "commit: the watermark is wrong"
            idle = [r.offset() for r in epoch.eligible(self.order, crowd) if free[EXECUTORS[r.task or ""]] > 0]
            if partition.watch is not None:
                lease = min(partition.mark.lease, partition.marked.lease)
                idle = [offset for offset in idle if offset < lease]
            assert closed or not idle, f"idle: a slot is free, but {idle} of {place} did not start"
            cause = bool(epoch.failing) or (partition.crowded and bool(epoch.open))
            assert (place in self.paused) is cause, f"pause: {place} is paused: {place in self.paused}, cause: {cause}"
            dues += [] if epoch.leaving else epoch.retrying.values()
            dues += [self.refused[forward] for forward in epoch.failing if forward in self.refused]
        assert set(engine.partitions) == set(self.owned)
        assert {place for place, partition in engine.partitions.items() if partition.suspect} == self.suspected
        waiting = sum(len(epoch.retrying) for epoch in self.epochs.values() if not epoch.fenced)
        assert engine.waiting_retries == waiting, f"retries: {engine.waiting_retries} wait, and {waiting} should"
        assert engine.pressure.unfinished == self.unfinished, "bounded: unfinished records are miscounted"
        assert (engine.pressure.unfinished_bytes > 0) is (self.unfinished > 0), "bounded: bytes are miscounted"
        full = engine.pressure.unfinished_bytes >= MOST_BYTES
        assert engine.room == (0 if self.quiet or full else MOST_RECORDS - self.unfinished), (
            "bounded: the room is wrong"
        )
        for names, epochs, deadline in self.revokes:
            assert any(epoch.busy for epoch in epochs), f"revoke: {names} is drained and not released"
            assert self.now < deadline, f"revoke: {names} is over its budget and not released"
        if self.stopping and not self.drained:
            assert self.stop_deadline is not None
            dues.append(self.stop_deadline)
            assert any(epoch.busy for epoch in self.owned.values()), "stop: all is drained, and it does not end"
            assert self.now < self.stop_deadline, "stop: its deadline has passed"
        assert all(engine.next_due <= due for due in dues), "tick: something is due before the next one"
