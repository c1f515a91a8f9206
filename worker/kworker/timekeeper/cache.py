"""What waits in one partition of the delay log, in a SQLite file: found by id, and by when it is due.

The log is the truth. The file has no name and goes with the process, however that ends, so nothing in it is ever made
safe (no journal, no sync): after any error it is dropped and built again. Promises: what `due` returns is due by the
wall clock and by the monotonic clock; memory does not grow with what waits. One thread uses it.

A log that is read from its start is loaded without looking at ids, which is several times as fast; `settle` then leaves
out what was replaced and what has ended, and from there on each record is applied as it comes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from msgspec import Struct

from kworker.timekeeper.entry import Entry
from kworker.timekeeper.roster import Roster

MOST_AT_ONCE = 500
"""Entries of one batch."""

MOST_BYTES = 4 << 20
"""Bytes of one batch, unless one entry has more."""

REMEMBERED_MS = 3_600_000
"""How long it is remembered that a wait ended, to tell who cancels too late."""

_CACHED, _SMALL = 4_096, 256  # KiB of the file that are kept in memory
_SORTING = 32_768  # the same while what was loaded is sorted
_PAGES = (
    ("journal_mode", "OFF"),
    ("synchronous", "OFF"),
    ("locking_mode", "EXCLUSIVE"),
    ("page_size", "16384"),
    ("temp_store", "FILE"),
)
_TABLES = (
    """CREATE TABLE IF NOT EXISTS entry (offset INTEGER PRIMARY KEY, id BLOB NOT NULL, due INTEGER NOT NULL,
       ready INTEGER NOT NULL, content BLOB NOT NULL, fault TEXT NOT NULL DEFAULT '',
       tries INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE IF NOT EXISTS gone (id BLOB NOT NULL, until INTEGER NOT NULL, offset INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS request (key BLOB PRIMARY KEY, id BLOB NOT NULL, offset INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ended (id BLOB PRIMARY KEY, at INTEGER NOT NULL, outcome TEXT NOT NULL)",
)
_INSERT = "INSERT INTO entry (offset, id, due, ready, content, fault) VALUES (?, ?, ?, ?, ?, ?)"
_ROW = "offset, id, due, content, fault, tries"

NewEntry = tuple[int, bytes, int, int, bytes, str]
"""offset, id, due, ready (by the monotonic clock, ms), content, fault: a row, so that a million are made fast."""


class Gone(Struct, frozen=True, gc=False):
    """A tombstone: at `offset` in the log, it ends the entries of `id` up to `until`, with this outcome. at: when, in
    ms since the epoch; 0 when that need not be remembered."""

    id: bytes
    until: int
    offset: int
    at: int
    outcome: str


class Asked(Struct, frozen=True, gc=False):
    """A request to cancel `id`."""

    key: bytes
    id: bytes
    offset: int


class Cache:
    """See the module. folder: where the file is; None is where temporary files are. shown: called with its path while
    the file still has a name, for another process to open it. file: one that a Cache of another process has filled and
    closed, instead of a new one. small: for who only counts what waits, in many partitions: how a wait ended is not
    remembered, and less is kept in memory."""

    def __init__(
        self,
        folder: str | None = None,
        *,
        shown: Callable[[str], None] = lambda path: None,
        file: sqlite3.Connection | None = None,
        small: bool = False,
    ) -> None:
        self.position = 0
        """The offset after the last record applied, or after the end of the log as far as it was read."""
        self.identity = ""
        """The id of the topic that was read."""
        self.pending = 0
        """How many tasks wait, as soon as it is settled."""
        self.settled = False
        self.exposed: set[int] = set()
        """Offsets of entries that a tombstone behind them does not mean, but compaction would take it so."""
        self._remembers, self._cached = not small, _SMALL if small else _CACHED
        self._db = file or _make(folder, shown)
        for name, value in (*_PAGES, ("cache_size", f"-{self._cached}")):
            self._db.execute(f"PRAGMA {name}={value}")
        for table in _TABLES:
            self._db.execute(table)
        self.schedules = Roster(self._db)
        """The schedules: beside the tasks, in the same file."""

    def close(self) -> None:
        """Throw it away."""
        with suppress(sqlite3.Error):  # it may be what broke
            self._db.close()

    # -- reading the log ----------------------------------------------------------------------------------------

    def load(self, entries: Sequence[NewEntry], gone: Sequence[Gone], asked: Sequence[Asked]) -> None:
        """What a batch of records holds, before it is settled: in any order, ids are not looked at."""
        self._db.execute("BEGIN")
        self._db.executemany(_INSERT, entries)
        self._db.executemany("INSERT INTO gone VALUES (?, ?, ?)", [(one.id, one.until, one.offset) for one in gone])
        self._ask(asked)
        self._remember((one.id, one.at, one.outcome) for one in gone)
        self._db.execute("COMMIT")

    def settle(self) -> None:
        """What was loaded is all there is: leave out what was replaced, and what has ended."""
        run = self._db.execute
        run(f"PRAGMA cache_size=-{_SORTING}")
        run("BEGIN")
        run("CREATE INDEX by_id ON entry (id)")
        if run("SELECT 1 FROM entry GROUP BY id HAVING count(*) > 1 LIMIT 1").fetchone():
            run("DELETE FROM entry WHERE offset NOT IN (SELECT max(offset) FROM entry GROUP BY id)")
        both = "FROM gone CROSS JOIN entry ON entry.id = gone.id"
        run(f"DELETE FROM entry WHERE offset IN (SELECT entry.offset {both} WHERE entry.offset <= gone.until)")
        exposed = run(f"SELECT entry.offset {both} WHERE entry.offset < gone.offset")
        self.exposed = {offset for (offset,) in exposed}
        run("DELETE FROM request WHERE EXISTS (SELECT 1 FROM gone WHERE id = key AND gone.offset > request.offset)")
        run("DROP TABLE gone")
        run("CREATE INDEX by_ready ON entry (ready, due)")
        run("COMMIT")
        run(f"PRAGMA cache_size=-{self._cached}")
        ((self.pending,),) = run("SELECT count(*) FROM entry")
        self.settled = True

    def put(self, entry: NewEntry) -> None:
        """A task that waits; it replaces an earlier one of its id."""
        if replaced := self._offsets(entry[1]):
            self._drop(replaced)
        self._db.execute(_INSERT, entry)
        self.pending += 1

    def end(self, gone: Gone) -> None:
        """A tombstone was read."""
        for offset in self._offsets(gone.id):
            if offset <= gone.until:
                self._drop([offset])
            elif offset < gone.offset:
                self.exposed.add(offset)
        self._db.execute("DELETE FROM request WHERE key = ? AND offset < ?", (gone.id, gone.offset))
        self._remember([(gone.id, gone.at, gone.outcome)])

    def ask(self, asked: Asked) -> None:
        """A request to cancel was read."""
        self._ask([asked])

    def begin(self) -> None:
        """Several changes follow: make them fast."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """They are made."""
        self._db.execute("COMMIT")

    def shift(self, clocks: int) -> None:
        """The wall clock and the monotonic clock have another distance now (ms) than when what waits was read."""
        self._db.execute("UPDATE entry SET ready = due - ? WHERE fault = '' AND tries = 0", (clocks,))

    # -- what is to be done -------------------------------------------------------------------------------------

    def due(self, steady: int, wall: int) -> list[Entry]:
        """The next batch that is due, the longest overdue first. steady, wall: the clocks, in ms."""
        found: list[Entry] = []
        size = 0
        rows = self._db.execute(
            f"SELECT {_ROW} FROM entry WHERE ready <= ? AND due <= ? ORDER BY ready LIMIT ?",
            (steady, wall, MOST_AT_ONCE),
        )
        for row in rows:
            entry = Entry(*row)
            size += len(entry.content) + len(entry.id)
            if found and size > MOST_BYTES:
                break
            found.append(entry)
        return found

    def next_ready(self, steady: int) -> int | None:
        """When something is ready that is not yet, by the monotonic clock in ms; None: nothing waits."""
        ((when,),) = self._db.execute("SELECT min(ready) FROM entry WHERE ready > ?", (steady,))
        return None if when is None else int(when)

    def overdue(self, steady: int, wall: int) -> int:
        """How many are due and not handed over yet."""
        ((count,),) = self._db.execute("SELECT count(*) FROM entry WHERE ready <= ? AND due <= ?", (steady, wall))
        return int(count)

    def requests(self) -> list[Asked]:
        """The requests to cancel that have no answer yet, in the order they were read."""
        rows = self._db.execute("SELECT key, id, offset FROM request ORDER BY offset LIMIT ?", (MOST_AT_ONCE,))
        return [Asked(*row) for row in rows]

    def find(self, id: bytes) -> Entry | None:
        """The task of this id, if it waits."""
        row = self._db.execute(f"SELECT {_ROW} FROM entry WHERE id = ?", (id,)).fetchone()
        return row and Entry(*row)

    def first(self, limit: int) -> list[Entry]:
        """Those that are due first, at most so many."""
        rows = self._db.execute(f"SELECT {_ROW} FROM entry ORDER BY due, id LIMIT ?", (limit,))
        return [Entry(*row) for row in rows]

    def by_content(self, wall: int) -> list[tuple[bytes, int, int, int, int | None]]:
        """Of the tasks of each content: how many wait, how many of them are due (wall: ms since the epoch), when the
        first is, and when the first that is not yet. For who keeps little of them."""
        self._db.execute("CREATE INDEX IF NOT EXISTS by_content ON entry (content, due) WHERE fault = ''")
        rows = self._db.execute(
            "SELECT content, count(*), sum(due <= ?1), min(due), min(CASE WHEN due > ?1 THEN due END) FROM entry"
            " WHERE fault = '' GROUP BY content",
            (wall,),
        )
        return rows.fetchall()

    def at(self, offsets: Iterable[int]) -> list[Entry]:
        """The entries at these offsets, as far as they still wait."""
        found = (self._db.execute(f"SELECT {_ROW} FROM entry WHERE offset = ?", (offset,)) for offset in offsets)
        return [Entry(*row) for rows in found for row in rows]

    def outcome(self, id: bytes) -> str | None:
        """How the wait of this id ended; None when it did not, or that is long ago."""
        row = self._db.execute("SELECT outcome FROM ended WHERE id = ?", (id,)).fetchone()
        return None if row is None else str(row[0])

    # -- what was done ------------------------------------------------------------------------------------------

    def ended(self, entries: Sequence[Entry], outcome: str, at: int) -> None:
        """Their tombstones are written. at: ms since the epoch."""
        self.begin()
        self._drop([entry.offset for entry in entries])
        self._remember((entry.id, at, outcome) for entry in entries)
        self.commit()

    def answered(self, asked: Sequence[Asked]) -> None:
        """The answers to these requests are written."""
        self._db.executemany("DELETE FROM request WHERE key = ?", [(one.key,) for one in asked])

    def renewed(self, entries: Sequence[Entry]) -> None:
        """They are written again: what waits is the new record, from when it is read."""
        self._drop([entry.offset for entry in entries])

    def put_off(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """These could not be handed over: (entry, when to try again, by the monotonic clock in ms)."""
        rows = [(ready, entry.tries + 1, entry.offset) for entry, ready in entries]
        self._db.executemany("UPDATE entry SET ready = ?, tries = ? WHERE offset = ?", rows)

    def forget(self, now: int) -> None:
        """Forget what ended long ago. now: ms since the epoch."""
        self._db.execute("DELETE FROM ended WHERE at < ?", (now - REMEMBERED_MS,))

    def _offsets(self, id: bytes) -> list[int]:
        return [offset for (offset,) in self._db.execute("SELECT offset FROM entry WHERE id = ?", (id,))]

    def _drop(self, offsets: Sequence[int]) -> None:
        dropped = self._db.executemany("DELETE FROM entry WHERE offset = ?", [(offset,) for offset in offsets]).rowcount
        self.pending -= max(0, dropped)
        self.exposed.difference_update(offsets)

    def _ask(self, asked: Sequence[Asked]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO request VALUES (?, ?, ?)", [(one.key, one.id, one.offset) for one in asked]
        )

    def _remember(self, ended: Iterable[tuple[bytes, int, str]]) -> None:
        if not self._remembers:
            return
        self._db.executemany("INSERT OR REPLACE INTO ended VALUES (?, ?, ?)", (one for one in ended if one[1]))


def connect(path: str) -> sqlite3.Connection:
    """Open the file of a cache; nothing is read or locked yet."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _make(folder: str | None, shown: Callable[[str], None]) -> sqlite3.Connection:
    descriptor, path = mkstemp(prefix="kworker-delayed-", dir=folder)
    os.close(descriptor)
    try:
        file = connect(path)
        shown(path)
    finally:
        Path(path).unlink(missing_ok=True)  # SQLite has it open: it is gone when that is closed, or the process killed
    return file
