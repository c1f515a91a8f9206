"""One partition of the delay log in the hands of its owner: taken over, kept up, and what is due handed over.

Promises: nothing is handed over before an earlier owner is fenced and the log was read up to the end that it had then;
each batch is one transaction, the tasks to their topics and their tombstones, the runs of schedules and their renewals,
so whoever dies or is frozen wherever, each is handed over once; what one batch could not be written for goes on
waiting, and the others go on without it.
Raises Failed when it cannot go on as it is: then it is taken over again from `again`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from kworker.core.delayed import Answer, Outcome, answer, decode, set_aside, tombstone
from kworker.core.scheduled import again, record
from kworker.kafka.delaylog import LogPlace
from kworker.kafka.transaction import KEY_DECIDES, Failed, Placed, Refused, Transactions
from kworker.task import ErrorInfo, Publication, Reason, Record
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.entry import Entry
from kworker.timekeeper.firing import Firing, fire
from kworker.timekeeper.reading import Clocks
from kworker.timekeeper.replay import apply, load
from kworker.timekeeper.roster import standing_of
from kworker.timekeeper.tally import Tally

log = logging.getLogger(__name__)

MOST_TRIES = 5
"""How often a task is tried that its target does not take, before it is set aside."""

_WAITS = (1_000, 4_000, 16_000, 64_000)  # ms between these tries
_NOT_NOW = 30_000
SHIFTED = 1_000
"""Milliseconds by which the wall clock was set, to be worth counting the due times anew."""
_OPEN_TOO_LONG = 30.0
_FAR, _TRIAL = 86_400_000, 600_000  # ms: how far a clock is set to be doubted, and for how long


class Holding:
    """See the module. topic: the delay log. place: asks where its partition is; letters: sees that there is
    a topic for dead letters, and returns why not."""

    def __init__(
        self,
        topic: str,
        partition: int,
        cache: Cache,
        *,
        clocks: Callable[[], Clocks],
        writer: Callable[[], Transactions],
        place: Callable[[], LogPlace],
        letters: Callable[[Transactions], str],
        tally: Tally,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.cache = cache
        self.ready = False
        """Whether it is taken over."""
        self.gap = False
        """Whether the log is not the one, or does not go on where, the cache was read: it must be built again."""
        self.behind = 0
        """How many offsets were to be read when it began to take over."""
        self.retry_at = 0.0
        self._clocks = clocks
        self._make_writer = writer
        self._place = place
        self._letters = letters
        self._tally = tally
        self._writer: Transactions | None = None
        self._end: int | None = None
        self._since = time.monotonic()
        self._told = False
        self.distance = clocks().distance
        """Of the wall clock from the monotonic one, in ms, when it was taken over: due times are counted by it."""
        self._believed = self.distance
        self._doubted: int | None = None  # since when, by the monotonic clock
        self._told_newer: set[bytes] = set()
        self._alone: set[int] = set()
        self._unread: dict[bytes, int] = {}  # ids that were written again, and where: not read yet

    # -- the log ------------------------------------------------------------------------------------------------

    def take(self, records: Sequence[Record]) -> None:
        """Records of the partition, in order."""
        cache = self.cache
        fresh = [record for record in records if record.offset() >= cache.position]
        if not fresh or self.gap:
            return
        (apply if cache.settled else load)(cache, fresh, self.topic, self._clocks())

    def reached(self, offset: int) -> None:
        """The log was read up to this offset; behind it there are at most records of open transactions."""
        if not self.gap:
            self.cache.position = max(self.cache.position, offset)

    # -- taking over --------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Do what can be done now; returns whether there may be more. Raises Failed, sqlite3.Error, KafkaException."""
        if self.ready:
            return self._hand_over()
        if self._writer is None:
            self._begin()
        if not self.gap and self._end is not None and self.cache.position >= self._end:
            self._complete()
            return True
        if not self._told and time.monotonic() - self._since > _OPEN_TOO_LONG:
            self._told = True
            log.warning("the delay log is not read to its end yet: is a transaction open in it?", extra=self._named())
        return False

    def again(self, wait: float) -> None:
        """Give the writer up, and take over again in `wait` seconds."""
        self.close()
        self.retry_at = time.monotonic() + wait

    def close(self) -> None:
        """Give the partition up. What was not handed over stays in the log."""
        self.ready, self._end = False, None
        self._unread.clear()  # it is read before it is ready again
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self) -> None:
        self._since, self._told = time.monotonic(), False
        self._writer = self._make_writer()
        # Order: an earlier owner is fenced and its transaction ended before the end of the log is asked for: what that
        # owner handed over lies before it.
        self._writer.start()
        place = self._place()
        cache = self.cache
        # Order: a gap stays until the cache is built again: what came meanwhile was not taken.
        self.gap |= cache.identity not in ("", place.identity)
        self.gap |= cache.settled and not place.low <= cache.position <= place.end
        cache.identity = place.identity
        self._end = place.end
        self.behind = place.end - max(place.low, cache.position)

    def _complete(self) -> None:
        if not self.cache.settled:
            self.cache.settle()
        distance = self._clocks().distance
        if abs(distance - self.distance) > SHIFTED:
            self.cache.shift(distance)
            self.cache.schedules.shift(distance)
        self.distance = distance
        self.ready = True
        seconds = time.monotonic() - self._since
        self._tally.took_over(seconds, self._clocks().wall)
        log.info(
            "delay log taken over", extra={**self._named(), "waiting": self.cache.pending, "seconds": round(seconds, 3)}
        )

    def look(self) -> int:
        """Forget what need not be known any more, and tell of each schedule once that only newer workers can read;
        returns how many there are."""
        self.cache.forget(self._clocks().wall)
        newer = {entry.id: entry for entry in self.cache.schedules.newer()}
        for id in newer.keys() - self._told_newer:
            said = {**self._named(), "schedule": _text(id), "error": newer[id].fault}
            log.error("a schedule waits for a worker that can read it, a newer one; here it cannot fire", extra=said)
        self._told_newer = set(newer)
        return len(newer)

    # -- handing over -------------------------------------------------------------------------------------------

    def next_ready(self, steady: int) -> int | None:
        """When something is ready that is not yet, by the monotonic clock in ms; None: nothing waits."""
        task = self.cache.next_ready(steady) if self.cache.pending else None
        return min((when for when in (task, self.cache.schedules.next_ready(steady)) if when is not None), default=None)

    def _hand_over(self) -> bool:
        answered, renewed, fired = self._answer(), self._renew(), self._fire()
        clocks = self._clocks()
        due = self.cache.due(clocks.steady, clocks.wall)
        if not due:
            return answered or renewed or fired
        lost = [entry for entry in due if entry.fault or entry.tries >= MOST_TRIES]
        if lost:
            self._set_aside(lost)
            return True
        self._release(self._that_go_together(self._with_targets(due, lambda entry: self._read(entry).topic)))
        return True

    def _that_go_together(self, due: list[Entry]) -> list[Entry]:
        """Those before the first that was refused in a batch before; that one goes alone."""
        for number, entry in enumerate(due):
            if entry.offset in self._alone:
                return due[: max(1, number)]
        return due

    def _with_targets(self, due: list[Entry], target_of: Callable[[Entry], str]) -> list[Entry]:
        """Those whose target is there. The others are put off: waiting for a topic would hold everything up."""
        assert self._writer is not None
        missing: dict[str, str] = {}
        there: list[Entry] = []
        away: list[Entry] = []
        for entry in due:
            target = target_of(entry)
            if target not in missing:
                missing[target] = self._writer.missing(target)
            (away if missing[target] else there).append(entry)
        for target, why in missing.items():
            if why:
                log.warning("what is due cannot be handed over: %s", why, extra={**self._named(), "target": target})
        self._put_off(away)
        return there

    def _release(self, due: list[Entry]) -> None:
        records: list[Placed] = []
        for entry in due:
            records += [(self._read(entry), KEY_DECIDES), self._tombstone(entry, Outcome.HANDED_OVER)]
        if self._write(records, [entry for entry in due for _ in range(2)]) is not None:
            wall = self._clocks().wall
            self.cache.ended(due, Outcome.HANDED_OVER, wall)
            self._tally.ended[Outcome.HANDED_OVER] += len(due)
            self._tally.late([(wall - entry.due) / 1000 for entry in due])

    def _fire(self) -> bool:
        """Publish what schedules are due for, and renew each in the same transaction."""
        clocks = self._clocks()
        if not self._believes(clocks):
            return False
        due = self._settled(self.cache.schedules.due(clocks.steady, clocks.wall))
        if broken := [entry for entry in due if entry.fault]:
            self._set_aside(broken)
            return True
        standings = {entry.offset: standing_of(entry) for entry in due}
        there = self._with_targets(due, lambda entry: standings[entry.offset].schedule.topic)
        firings = fire(((entry, standings[entry.offset]) for entry in there), clocks.wall, self.topic)
        records: list[Placed] = []
        owners: list[Entry] = []
        for firing in firings:
            records += [*((run, KEY_DECIDES) for run in firing.runs), (firing.renewal, self.partition)]
            owners += [firing.entry] * (len(firing.runs) + 1)
        if (offsets := self._write(records, owners)) is not None:
            self._fired(firings, offsets)
        return bool(due)

    def _believes(self, clocks: Clocks) -> bool:
        """Whether schedules may be decided of by the wall clock. A decision for a far future stands until that comes:
        so a clock that was set far ahead is believed only when it stays so."""
        ahead = clocks.distance - self._believed
        if ahead <= _FAR:
            self._doubted = None
            if ahead > -_FAR:
                self._believed = clocks.distance
            return True
        if self._doubted is None:
            self._doubted = clocks.steady
            log.warning("the clock was set by more than a day: schedules wait ten minutes, whether it stays so")
        if clocks.steady - self._doubted < _TRIAL:
            return False
        self._believed, self._doubted = clocks.distance, None
        return True

    def _settled(self, schedules: list[Entry]) -> list[Entry]:
        """Those of which all is read that was written here: the others may be further than they seem."""
        return [entry for entry in schedules if entry.id not in self._unread]

    def _fired(self, firings: Sequence[Firing], offsets: Sequence[int]) -> None:
        written = iter(offsets)
        for firing in firings:
            *_, renewed = [next(written) for _ in range(len(firing.runs) + 1)]
            self._unread[firing.entry.id] = renewed
            self._tally.fired(firing.lateness, missed=firing.missed)
        # Order: each waits for nothing until its renewal is read, or it would fire twice.
        self.cache.schedules.renewed([firing.entry for firing in firings])

    def _set_aside(self, lost: list[Entry]) -> None:
        assert self._writer is not None
        if why := self._letters(self._writer):
            log.error("what cannot be handed over cannot be set aside either: %s", why, extra=self._named())
            self._put_off(lost, _NOT_NOW)
            return
        records: list[Placed] = []
        for entry in lost:
            letter = self._letter(entry)
            records += [(letter, self.partition), self._tombstone(entry, Outcome.SET_ASIDE)]
        if self._write(records, [entry for entry in lost for _ in range(2)]) is not None:
            self.cache.ended(lost, Outcome.SET_ASIDE, self._clocks().wall)
            self.cache.schedules.ended(lost)
            self._tally.ended[Outcome.SET_ASIDE] += len(lost)

    def _letter(self, entry: Entry) -> Publication:
        value, headers, timestamp = entry.record()
        if entry.fault:
            reason, error = Reason.UNDECODABLE, ErrorInfo("delayed", entry.fault)
        else:
            target = self._read(entry).topic
            text = f"its target {target!r} did not take it, {entry.tries} times"
            reason, error = Reason.REJECTED, ErrorInfo("target", text)
        place = f"{self.topic}/{self.partition}/{entry.offset}"
        log.error("delayed task set aside: %s", error.message, extra={**self._named(), "id": _text(entry.id)})
        times = {"first-seen": max(0, timestamp), "failed-at": self._clocks().wall}
        return set_aside(entry.id, value, headers, error, reason, origin=place, at=times)

    def _answer(self) -> bool:
        """Answer the requests to cancel, each in the transaction that ends the task's wait."""
        self._unread = {id: offset for id, offset in self._unread.items() if offset >= self.cache.position}
        # What was written again is answered for when that is read: until then its offset is not known here.
        asked = [one for one in self.cache.requests() if one.id not in self._unread]
        if not asked:
            return False
        records: list[Placed] = []
        cancelled: dict[bytes, Entry] = {}
        for one in asked:
            entry = self.cache.find(one.id) or self.cache.schedules.find(one.id)
            if entry is not None and one.id not in cancelled:
                cancelled[one.id] = entry
                records.append(self._tombstone(entry, Outcome.CANCELLED))
            said = Answer.CANCELLED if one.id in cancelled else self._past(one.id)
            records.append((answer(one.key, said, self.topic), self.partition))
        if self._write(records, []) is not None:
            self.cache.ended(list(cancelled.values()), Outcome.CANCELLED, self._clocks().wall)
            self.cache.schedules.ended(cancelled.values())
            self.cache.answered(asked)
            self._tally.ended[Outcome.CANCELLED] += len(cancelled)
        return True

    def _past(self, id: bytes) -> Answer:
        outcome = self.cache.outcome(id)
        if outcome is None:
            return Answer.UNKNOWN
        return Answer.CANCELLED if outcome == Outcome.CANCELLED else Answer.TOO_LATE

    def _renew(self) -> bool:
        """Write again what a tombstone behind it does not mean: compaction would take it for ended."""
        exposed = self.cache.at(sorted(self.cache.exposed)[:100])
        schedules = self._settled(self.cache.schedules.exposed())
        if not exposed and not schedules:
            return False
        records: list[Placed] = []
        for entry in exposed:
            value, headers, _ = entry.record()
            records.append((Publication(self.topic, entry.id, value, headers), self.partition))
        records += [(self._as_it_stands(entry), self.partition) for entry in schedules]
        offsets = self._write(records, [])
        assert offsets is not None  # it raises instead, where no entry is named
        # Order: not handed over before the new record is read, or that one would look like another task then.
        self.cache.renewed(exposed)
        self.cache.schedules.renewed(schedules)
        self._unread |= zip([entry.id for entry in (*exposed, *schedules)], offsets, strict=True)
        return True

    def _as_it_stands(self, schedule: Entry) -> Publication:
        if not schedule.fault:
            return record(standing_of(schedule), self.topic, schedule.offset)
        value, headers, _ = schedule.record()
        return again(value, headers, schedule.id, self.topic, schedule.offset)

    def _write(self, records: Sequence[Placed], entries: Sequence[Entry]) -> list[int] | None:
        """Write them in one transaction; returns the offset of each, None when the broker does not take some: their
        entries are put off. entries: the one of each record; none when the delay log itself must take them all."""
        if not records:
            return None
        assert self._writer is not None
        try:
            offsets = self._writer.write(records)
        except Refused as refused:
            if not entries:
                raise Failed(f"the delay log does not take a record: {refused}") from refused
            culprits = list({entries[number].offset: entries[number] for number in sorted(refused.why)}.values())
            log.warning("delayed tasks were refused: %s", refused, extra={**self._named(), "tasks": len(culprits)})
            self._alone.update(entry.offset for entry in culprits)
            self._put_off(culprits)
            return None
        self._alone.difference_update(entry.offset for entry in entries)
        return offsets

    def _put_off(self, entries: Iterable[Entry], wait: int | None = None) -> None:
        steady = self._clocks().steady
        rows = [(entry, steady + (wait or _WAITS[min(entry.tries, len(_WAITS) - 1)])) for entry in entries]
        self.cache.put_off(rows)
        self.cache.schedules.put_off(rows)

    def _read(self, entry: Entry) -> Publication:
        value, headers, _ = entry.record()
        return decode(entry.id, value, headers, entry.due).publication()

    def _tombstone(self, entry: Entry, outcome: Outcome) -> Placed:
        return tombstone(entry.id, entry.offset, outcome, self.topic), self.partition

    def _named(self) -> dict[str, object]:
        return {"topic": self.topic, "partition": self.partition}


def _text(id: bytes) -> str:
    return id[:200].decode("utf-8", "backslashreplace")
