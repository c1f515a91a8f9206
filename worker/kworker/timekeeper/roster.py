"""The schedules of one partition of the delay log, in the file of its cache: found by id, and by when they are due.

Records are applied one by one, in the order of the log, also while it is read from its start, so that the same log
gives the same schedules to whoever reads it. Promises: a record that somebody wrote is not undone by a renewal of an
earlier one that came behind it; it goes on where that one got to, so what was decided is not decided again; what
compaction would lose is `exposed`, to be written again before it fires.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence

from msgspec import Struct

from kworker.schedules.schedule import Standing
from kworker.timekeeper.entry import Entry, pack

MOST_AT_ONCE = 500
"""Schedules of one batch."""

NEVER = 2**62
"""When one is due that waits for nothing, or whose renewal is not read yet; ms."""

TABLE = """CREATE TABLE IF NOT EXISTS schedule (id BLOB PRIMARY KEY, offset INTEGER NOT NULL, due INTEGER NOT NULL,
           ready INTEGER NOT NULL, content BLOB NOT NULL, fault TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
           exposed INTEGER NOT NULL)"""
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS schedule_by_ready ON schedule (ready)",
    "CREATE INDEX IF NOT EXISTS schedule_exposed ON schedule (exposed) WHERE exposed = 1",
)
_ROW = "offset, id, due, content, fault, tries"


class Planned(Struct, frozen=True, gc=False):
    """A record of a schedule. until: up to which offset it replaces others: an owner's renewal names the one that it
    means. standing: None when the record cannot be read; `fault` says why, and `content` is the record. newer: it can
    be, by others: it is kept for them."""

    id: bytes
    offset: int
    until: int
    standing: Standing | None
    content: bytes
    fault: str
    newer: bool = False


class Roster:
    """See the module."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(TABLE)
        for index in _INDEXES:
            db.execute(index)

    # -- reading the log ----------------------------------------------------------------------------------------

    def put(self, planned: Planned, distance: int) -> None:
        """A record was read. distance: of the wall clock from the monotonic one, in ms."""
        old, new = self.find(planned.id), planned.standing
        before = standing_of(old) if old is not None and not old.fault else None
        if old is not None and old.offset > planned.until:
            # A renewal of an earlier record: the one that came in between counts, and is hidden by this one.
            if before is None or new is None:
                self._expose(old.id)
            else:
                self._insert(old.id, old.offset, before.over(new), distance, exposed=True)
            return
        if new is None:
            due, ready = (NEVER, NEVER) if planned.newer else (0, -distance)
            row = (planned.id, planned.offset, due, ready, planned.content, planned.fault, False)
            self._db.execute("INSERT OR REPLACE INTO schedule VALUES (?, ?, ?, ?, ?, ?, 0, ?)", row)
            return
        # What names the offset that it replaces was made from it; anything else may not know how far that one got.
        known = before is None or planned.until < planned.offset
        merged = new if known or before is None else new.over(before)
        self._insert(planned.id, planned.offset, merged, distance, exposed=merged != new)

    def end(self, id: bytes, until: int, offset: int) -> None:
        """A tombstone at `offset` was read, which ends what is in the log up to `until`."""
        self._db.execute("DELETE FROM schedule WHERE id = ? AND offset <= ?", (id, until))
        self._db.execute("UPDATE schedule SET exposed = 1 WHERE id = ? AND offset < ?", (id, offset))

    def shift(self, distance: int) -> None:
        """The wall clock has another distance from the monotonic one than when the schedules were read."""
        self._db.execute("UPDATE schedule SET ready = due - ? WHERE tries = 0 AND ready < ?", (distance, NEVER))

    # -- what is to be done -------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many schedules there are."""
        ((count,),) = self._db.execute("SELECT count(*) FROM schedule WHERE fault = ''")
        return int(count)

    def find(self, id: bytes) -> Entry | None:
        """The schedule of this id."""
        row = self._db.execute(f"SELECT {_ROW} FROM schedule WHERE id = ?", (id,)).fetchone()
        return row and Entry(*row)

    def due(self, steady: int, wall: int) -> list[Entry]:
        """Those that are due by both clocks (ms), the longest overdue first, and records that cannot be read."""
        rows = self._db.execute(
            f"SELECT {_ROW} FROM schedule WHERE ready <= ? AND due <= ? AND (exposed = 0 OR fault <> '')"
            " ORDER BY ready LIMIT ?",
            (steady, wall, MOST_AT_ONCE),
        )
        return [Entry(*row) for row in rows]

    def next_ready(self, steady: int) -> int | None:
        """When one is ready that is not yet, by the monotonic clock in ms; None: none waits."""
        ((when,),) = self._db.execute("SELECT min(ready) FROM schedule WHERE ready > ?", (steady,))
        return None if when is None else int(when)

    def times(self) -> list[tuple[str, int]]:
        """The topic of each that will fire, and when it is due, in ms since the epoch."""
        rows = self._db.execute(f"SELECT {_ROW} FROM schedule WHERE fault = '' AND due < ?", (NEVER,))
        return [(standing_of(entry).schedule.topic, entry.due) for entry in (Entry(*row) for row in rows)]

    def newer(self) -> list[Entry]:
        """Those that cannot be read here, and are kept for who can: a hundred at most."""
        rows = self._db.execute(f"SELECT {_ROW} FROM schedule WHERE due = {NEVER} AND fault <> '' LIMIT 100")
        return [Entry(*row) for row in rows]

    def overdue(self, wall: int, steady: int) -> float:
        """By how many seconds the one is late that is due for longest and did not fire; 0.0: none is."""
        row = "SELECT min(due) FROM schedule WHERE due <= ? AND fault = '' AND (ready <= ? OR tries > 0)"
        ((due,),) = self._db.execute(row, (wall, steady))
        return 0.0 if due is None else (wall - due) / 1000

    def exposed(self) -> list[Entry]:
        """Those that must be written again: the log alone, once it is compacted, would not tell them."""
        rows = self._db.execute(f"SELECT {_ROW} FROM schedule WHERE exposed = 1 AND (fault = '' OR due = {NEVER})")
        return [Entry(*row) for row in rows.fetchmany(100)]

    # -- what was done ------------------------------------------------------------------------------------------

    def ended(self, entries: Iterable[Entry]) -> None:
        """Their tombstones are written."""
        self._db.executemany("DELETE FROM schedule WHERE offset = ?", [(entry.offset,) for entry in entries])

    def renewed(self, entries: Sequence[Entry]) -> None:
        """They are written anew: they wait for nothing until that is read."""
        rows = [(NEVER, entry.offset) for entry in entries]
        self._db.executemany("UPDATE schedule SET ready = ?, exposed = 0 WHERE offset = ?", rows)

    def put_off(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """These could not fire: (entry, when to try again, by the monotonic clock in ms)."""
        rows = [(ready, entry.tries + 1, entry.offset) for entry, ready in entries]
        self._db.executemany("UPDATE schedule SET ready = ?, tries = ? WHERE offset = ?", rows)

    def _insert(self, id: bytes, offset: int, standing: Standing, distance: int, *, exposed: bool) -> None:
        due = due_at(standing)
        content = pack((standing.encode(), [], 0))
        row = (id, offset, due, due if due == NEVER else due - distance, content, exposed)
        self._db.execute("INSERT OR REPLACE INTO schedule VALUES (?, ?, ?, ?, ?, '', 0, ?)", row)

    def _expose(self, id: bytes) -> None:
        self._db.execute("UPDATE schedule SET exposed = 1 WHERE id = ?", (id,))


def standing_of(entry: Entry) -> Standing:
    """What a schedule's entry without a fault holds."""
    return Standing.decode(entry.record()[0])


def due_at(standing: Standing) -> int:
    """When it fires next, in ms since the epoch: never before."""
    return NEVER if standing.next is None else math.ceil(standing.schedule.fires_at(standing.next) * 1000)
