"""The engine and its world: every event that can happen, told to the engine and to the account of what it should do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.deadletter import CUT
from kworker.core.delayed import decode, judge
from kworker.core.forward import Forward
from kworker.core.mark import Mark
from kworker.core.metadata import Intervals, encode, read
from kworker.task import Outcome, Postponed, Reason, Refused, Success, TopicPartition
from property.engine_account import LOG, MOST_RECORDS, Account
from property.engine_world import (
    ATTEMPTS,
    IN_LANE,
    IN_MEMORY,
    RETRIES,
    Attempt,
    Epoch,
    Stored,
    decoded,
    wait_of,
)

ASK_AGAIN = 60.0  # seconds after which a delay log that is not there is asked for again
PUBLICATION_TRIES = 5  # refused so often, what a task published is given up, and its record set aside
Marking = Literal["told", "untold", "refused"]
LAST = {"Failed": Reason.EXHAUSTED, "TimedOut": Reason.TIMED_OUT, "Crashed": Reason.CRASHED}


class Twin(Account):
    """An account that events happen to."""

    def assign(self, places: Iterable[TopicPartition], start: int | None = None, marking: Marking = "told") -> None:
        """The group gives us these; `start` is where a group without a committed offset begins.

        marking: what comes of the commit that says that our life begins.
        """
        given = []
        for place in places:
            stored = self.stored.get(place)
            begin = stored.offset if stored else min(start or 0, self.logs[place].end)
            restored = stored.finished if stored else frozenset()
            if place in self.owned:
                self._fence(self.owned[place])
            before = stored.mark if stored else Mark()
            if before.alone is not None and self.counted.get(place) is not stored:  # one death is charged once
                self.charges[place, before.alone] += 1
            self.counted[place] = stored
            end = self.logs[place].end if before.lives else None
            above, _ = read(stored.metadata if stored else "", begin) or (Intervals(), b"")
            mark = before.begun(begin, above, end)
            if self.alphabet is not None and marking != "refused":
                bounds = [bound for one in sorted(restored) for bound in (one, one + 1)]
                metadata, _ = encode(begin, bounds, self.alphabet, mark.packed())
                self.stored[place] = Stored(begin, metadata, restored)
            told = self.alphabet is not None and marking == "told"
            known = (begin, restored) if stored or told else None
            epoch = self.owned[place] = Epoch(self.logs[place], begin, restored, known, self.alphabet is not None)
            epoch.leaving, epoch.lives = self.stopping, mark.lives
            committed = begin if known is not None else None
            marked = told or self.alphabet is None
            given.append(
                on.Assignment(place, begin, committed, stored.metadata if stored else "", end=end, marked=marked)
            )
            if stored is None:
                self.effects |= {(place, offset) for offset in range(begin)}  # the group chose not to read these
        self.send(on.Assigned(given))
        assert not self.paused & set(places), "pause: a newly assigned partition is still paused"

    def let_another_work(self, place: TopicPartition, ahead: int, finished: set[int]) -> None:
        """Another worker owns it for a while; what it leaves are a committed offset and its metadata."""
        before = self.stored.get(place, Stored(0, "", frozenset()))
        log = self.logs[place]
        offset = min(before.offset + ahead, log.end)
        done = {offset + 1 + step for step in finished} | set(before.finished)
        done = {one for one in done if one > offset and one in log.records}
        self.effects |= {(place, one) for one in [*range(offset), *done]}
        metadata = ""
        if self.alphabet is not None:
            bounds = [bound for one in sorted(done) for bound in (one, one + 1)]
            metadata, _ = encode(offset, bounds, self.alphabet)
        self.stored[place] = Stored(offset, metadata, decoded(metadata, offset, log))
        self.forgive(place)

    def forgive(self, place: TopicPartition) -> None:
        """What is stored of this partition's owners is gone."""
        for one in [one for one in self.charges if one[0] == place]:
            del self.charges[one]

    def poll(self, wanted: Iterable[tuple[TopicPartition, int]]) -> None:
        """Deliver up to so many records of each of these partitions, within the room there is."""
        room = max(0, MOST_RECORDS - self.unfinished)
        records = []
        for place, most in wanted:
            epoch = self.owned.get(place)
            if epoch is None or place in self.paused:
                continue
            ahead = [offset for offset in sorted(epoch.log.records) if offset >= epoch.position]
            for offset in ahead[: min(most, room)]:
                record = epoch.log.records[offset]
                epoch.position = offset + 1
                room -= 1
                records.append(record)
                if epoch.deliver(record, self.charges[place, offset]):
                    if record.bad is not None:
                        self._letters[epoch, offset] = record.bad
                    elif offset in epoch.condemned:
                        self._letters[epoch, offset] = Reason.CRASHED
        if records:
            self.send(on.Polled(list(records), self.at))

    def reach_end(self, place: TopicPartition) -> None:
        """The intake tells that it has delivered all there is."""
        epoch = self.owned[place]
        if not any(offset >= epoch.position for offset in epoch.log.records):
            if not epoch.leaving:  # what was dropped because it leaves was never worked: the end means nothing then
                epoch.next = max(epoch.next, epoch.log.end)
            self.send(on.EndReached(place, epoch.log.end))

    def finish(self, ended: list[tuple[Attempt, Outcome]]) -> None:
        """Attempts end, in one batch."""
        for attempt, outcome in ended:
            self.handed.remove(attempt)
            self.reported.append(attempt)
            self._account(attempt, outcome)
        reports = [(attempt.entry, attempt.run, outcome, self.now, self.now) for attempt, outcome in ended]
        self.send(on.Finished(reports, self.at))

    def report_again(self, attempt: Attempt, outcome: Outcome) -> None:
        """A report of an attempt that was reported, or given back, before."""
        late = self.engine.late_results
        report = (attempt.entry, attempt.run, outcome, self.now, self.now)
        actions = self.send(on.Finished([report], self.at))
        assert not actions, f"stale: a late report led to {actions}"
        assert self.engine.late_results == late + 1, "stale: a late report was not counted"

    def answer_withdraw(self) -> None:
        """The executors give back what had not begun."""
        entries = [attempt.entry for attempt in self.withdrawing]
        for attempt in self.withdrawing:
            self.handed.remove(attempt)
            self.reported.append(attempt)
            del attempt.epoch.running[attempt.entry.offset]
        self.withdrawing = []
        self.send(on.Withdrawn(entries))

    def answer_forward(self, forward: Forward, refusal: on.Refusal | None) -> None:
        """The broker acknowledges a forward, or refuses it."""
        self.flying.remove(forward)
        epoch, offset = self._where(forward)
        failing = epoch.failing
        if refusal is None and forward.due is not None:
            written = forward.publication
            due, _ = judge(written.key or b"", dict(written.headers), LOG, int(self.at * 1000))
            task = decode(written.key or b"", written.value, written.headers, due)
            self.delay_log[task.id] = task, epoch.log.records[offset]
        if refusal is None:
            failing.discard(forward)
            if offset in epoch.forwards:
                epoch.forwards[offset].discard(forward)
                if not epoch.forwards[offset]:
                    del epoch.forwards[offset]
                    self.effects.add((epoch.place, offset))
                    if not epoch.fenced:
                        epoch.finish(offset)
        elif not epoch.fenced and forward.due is not None:
            del epoch.forwards[offset]
            epoch.retrying[offset] = forward.due
            if refusal is on.Refusal.NO_TOPIC and self.log_ready:
                self.log_ready, self.ask_at = False, self.now
                self._ask()
        elif not epoch.fenced:
            letter = forward.verdict is not None
            smaller = letter and refusal is on.Refusal.TOO_LARGE and forward.level < CUT
            hopeless = not letter and refusal is not on.Refusal.OTHER and forward.tries >= PUBLICATION_TRIES
            if smaller or hopeless:
                self._resend.add(forward)
            else:
                failing.add(forward)
                self.refused[forward] = self.now + min(15.0, 0.5 * 2.0**forward.tries)
            if letter and refusal is on.Refusal.NO_TOPIC:
                self._missing.add(forward.publication.topic)
        self.send(on.Forwarded([(forward, refusal)]))

    def answer_commit(self, applied: bool, told: bool) -> None:
        """The coordinator answers the oldest commit; one of a fenced epoch is dropped by the intake."""
        results: list[tuple[TopicPartition, int, str | None]] = []
        for item, epoch in self.commits.popleft():
            good = applied and not epoch.fenced
            if good:
                self._store(item, epoch)
            if good and told:
                epoch.acknowledged = (item.offset, self.stored[epoch.place].finished)
            results.append((item.topic_partition, item.epoch, None if good and told else "refused"))
        self.send(on.Committed(results))

    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        due = self.engine.commits.due <= self.now and not self.commits
        for id, (task, record) in list(self.delay_log.items()):
            if task.due <= self.at * 1000:
                del self.delay_log[id]
                self.logs[RETRIES].append_again(record, task)
        for epoch in self.owned.values():
            for offset in [offset for offset, at in epoch.retrying.items() if at <= self.now]:
                del epoch.retrying[offset]
        for forward in [forward for forward, at in self.refused.items() if at <= self.now]:
            del self.refused[forward]
            if not self._where(forward)[0].fenced:
                self._resend.add(forward)
        changed = {epoch for epoch in self.owned.values() if epoch.changed}
        actions = self.send(on.Tick())
        if due:
            items = {
                item.topic_partition for action in actions if isinstance(action, do.Commit) for item in action.items
            }
            left = {epoch.place for epoch in changed} - items
            assert not left, (
                f"commit: nothing was committed for {left}, which changed since its last acknowledged commit"
            )

    def make_log(self) -> None:
        """There is a delay log now: what waits for long, and holds nobody up, moves there."""
        self.log_ready = True
        for epoch in self.owned.values():
            for offset, due in list(epoch.retrying.items()):
                free = epoch.log.records[offset].lane(self.order) is None and not epoch.leaving
                if free and due - self.now > IN_MEMORY:
                    self._waits[epoch, offset] = epoch.retrying.pop(offset)
        self.send(on.LogReady(self.at))

    def _ask(self) -> None:
        if self.now >= self.ask_at:
            self.ask_at = self.now + ASK_AGAIN
            self._missing.add(LOG)

    def _wait(self, epoch: Epoch, offset: int, wait: float) -> None:
        """Until its next attempt it waits in memory, or for long in the delay log, unless others wait behind it."""
        if epoch.log.records[offset].lane(self.order) is not None:
            wait = min(wait, IN_LANE)
        elif wait > IN_MEMORY:
            if self.log_ready:
                self._waits[epoch, offset] = self.now + wait
                return
            self._ask()
        epoch.retrying[offset] = self.now + wait

    def revoke(self, places: list[TopicPartition], budget: float) -> None:
        epochs = [self.owned[place] for place in places if place in self.owned]
        for epoch in epochs:
            epoch.leaving = True
        self.revokes.append((places, epochs, self.now + budget))
        self._owes_withdraw = True
        self.send(on.Revoked(places, self.now + budget))

    def lose(self, places: list[TopicPartition]) -> None:
        for place in places:
            if place in self.owned:
                self.taken += self.stopping
                self.lost += self.stopping and self.owned[place].changed
                self._fence(self.owned[place])
        self.revokes.append((places, [], self.now))
        self._owes_withdraw = True
        self.send(on.Revoked(places, self.now, lost=True))

    def stop(self, budget: float) -> None:
        deadline = self.now + budget
        self.stop_deadline = deadline if self.stop_deadline is None else min(deadline, self.stop_deadline)
        self.quiet = self.stopping = True
        for epoch in self.owned.values():
            epoch.leaving = True
        self._owes_withdraw = True
        self.send(on.StopRequested(deadline))

    def _account(self, attempt: Attempt, outcome: Outcome) -> None:
        epoch, offset, name = attempt.epoch, attempt.entry.offset, attempt.entry.task.name
        if attempt in self.withdrawing:
            self.withdrawing.remove(attempt)
        del epoch.running[offset]
        if epoch.fenced:
            return
        tried = epoch.attempts[offset]
        if isinstance(outcome, Success):
            if outcome.publish:
                self._publications[epoch, offset] = list(outcome.publish)
            else:
                epoch.finish(offset)
                self.effects.add((epoch.place, offset))
        elif isinstance(outcome, Postponed):
            self._wait(epoch, offset, outcome.after)
        elif isinstance(outcome, Refused):
            self._letters[epoch, offset] = outcome.reason
        elif tried >= ATTEMPTS[name]:
            self._letters[epoch, offset] = LAST[type(outcome).__name__]
        else:
            epoch.attempts[offset] = tried + 1
            self._wait(epoch, offset, wait_of(name, outcome, tried))
