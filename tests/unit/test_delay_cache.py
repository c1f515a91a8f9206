"""What waits in a partition of the delay log: the same, whether the log is loaded at once or applied as it comes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.memory import MemoryRecord
from kworker.core.delayed import Answer, Outcome, answer, delay, request, tombstone
from kworker.core.scheduled import record
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Every
from kworker.task import Headers, Publication
from kworker.timekeeper import replay
from kworker.timekeeper.cache import MOST_AT_ONCE, MOST_BYTES, Cache, connect
from kworker.timekeeper.reading import Clocks, read

LOG = "kworker.delayed"
NOW = Clocks(wall=1_800_000_000_000, steady=50_000)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(str(tmp_path))
    yield made
    made.close()


def at(offset: int, record: Publication) -> MemoryRecord:
    """The record, as it is read from the log."""
    return MemoryRecord(offset, record.headers, record.key, record.value, 0, LOG, (1, NOW.wall))


def waiting(id: str, due: float = 1_800_000_001.0, value: bytes | None = b"{}") -> Publication:
    """A task that waits; due: seconds since the epoch, a second from now unless given."""
    return delay(Publication("orders", b"k", value, []), id, due, LOG)


def load(cache: Cache, records: Sequence[MemoryRecord]) -> None:
    """All at once, as a log is read from its start."""
    if records:
        replay.load(cache, records, LOG, NOW)
    cache.settle()


def apply(cache: Cache, records: Sequence[MemoryRecord]) -> None:
    """One by one, as they come."""
    for one in records:
        replay.apply(cache, [one], LOG, NOW)


def found(cache: Cache, ids: Sequence[bytes]) -> tuple[object, ...]:
    """All that can be asked of it."""
    entries = {id: (entry := cache.find(id)) and (entry.offset, entry.due) for id in ids}
    requests = [(one.id, one.offset) for one in cache.requests()]
    ended = {id: cache.outcome(id) for id in ids}
    return cache.pending, entries, sorted(cache.exposed), requests, ended


IDS = ["a", "b", "c"]
STEPS = st.tuples(
    st.sampled_from(["put", "end", "bare", "ask", "answer"]), st.sampled_from(IDS), st.integers(0, 3), st.integers(0, 9)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 25))
def test_loading_and_applying_give_the_same(steps: list[tuple[str, str, int, int]], cut: int) -> None:
    """Whatever the log holds, and wherever it is cut into what was loaded and what came then."""
    records = []
    for offset, (what, id, back, number) in enumerate(steps):
        record = {
            "put": waiting(id, 1_800_000_000 + number),
            "end": tombstone(id.encode(), max(0, offset - back), Outcome.HANDED_OVER, LOG),
            "bare": Publication(LOG, id.encode(), None, []),
            "ask": request(id.encode(), str(number), LOG),
            "answer": answer(b"cancel/%d" % number, Answer.UNKNOWN, LOG),
        }[what]
        records.append(at(offset, record))
    seen = []
    for split in (0, cut, len(records)):
        cache = Cache()
        load(cache, records[:split])
        apply(cache, records[split:])
        seen.append(found(cache, [id.encode() for id in IDS]))
        cache.close()
    assert seen[0] == seen[1] == seen[2]


def test_the_same_id_again_reschedules(cache: Cache) -> None:
    load(cache, [at(0, waiting("a", 1_800_000_009)), at(1, waiting("b")), at(2, waiting("a", 1_800_000_002))])
    assert cache.pending == 2
    entry = cache.find(b"a")
    assert entry is not None
    assert (entry.offset, entry.due) == (2, 1_800_000_002_000)


def test_a_tombstone_does_not_end_what_came_under_its_id_meanwhile(cache: Cache) -> None:
    """The owner handed over the entry at 0 while the one at 1 was written: that one waits, and is written again."""
    load(cache, [at(0, waiting("a")), at(1, waiting("a")), at(2, tombstone(b"a", 0, Outcome.HANDED_OVER, LOG))])
    assert (cache.pending, cache.exposed) == (1, {1})
    cache.renewed(cache.at([1]))
    assert (cache.pending, cache.exposed) == (0, set())
    apply(cache, [at(3, waiting("a"))])
    assert (cache.pending, cache.exposed) == (1, set())


def test_what_is_due_is_due_by_both_clocks(cache: Cache) -> None:
    load(cache, [at(0, waiting("a"))])
    steady, wall = NOW.steady + 1000, NOW.wall + 1000
    assert cache.due(steady - 1, wall + 3_600_000) == []  # the wall clock was set forward by an hour
    assert cache.due(steady + 3_600_000, wall - 1) == []  # and back
    assert [entry.id for entry in cache.due(steady, wall)] == [b"a"]
    assert (cache.next_ready(NOW.steady), cache.next_ready(steady)) == (steady, None)


def test_an_entry_that_is_read_after_the_clock_was_set_counts_by_it(cache: Cache) -> None:
    load(cache, [])
    set_forward = Clocks(NOW.wall + 3_600_000, NOW.steady)
    (item,) = read([at(0, waiting("a", 1_800_003_601.0))], LOG, set_forward)
    assert isinstance(item, tuple)
    cache.put(item)
    assert cache.next_ready(0) == NOW.steady + 1000
    cache.shift(NOW.distance)
    assert cache.next_ready(0) == NOW.steady + 3_601_000


def test_a_batch_is_bounded_by_count_and_bytes(cache: Cache) -> None:
    load(cache, [at(n, waiting(f"{n}", 1_800_000_000)) for n in range(MOST_AT_ONCE + 10)])
    assert len(cache.due(NOW.steady, NOW.wall)) == MOST_AT_ONCE
    large = [at(1000 + n, waiting(f"x{n}", 1_700_000_000, b"x" * (MOST_BYTES // 2 - 4096))) for n in range(3)]
    apply(cache, large)
    assert [entry.id for entry in cache.due(NOW.steady, NOW.wall)] == [b"x0", b"x1"]
    apply(cache, [at(2000, waiting("huge", 1_600_000_000, b"x" * (MOST_BYTES + 1)))])
    assert [entry.id for entry in cache.due(NOW.steady, NOW.wall)] == [b"huge"]


def test_what_was_put_off_comes_again_when_it_is_time(cache: Cache) -> None:
    load(cache, [at(0, waiting("a", 1_800_000_000))])
    (entry,) = cache.due(NOW.steady, NOW.wall)
    cache.put_off([(entry, NOW.steady + 4000)])
    assert cache.due(NOW.steady + 3999, NOW.wall) == []
    assert [again.tries for again in cache.due(NOW.steady + 4000, NOW.wall)] == [1]
    cache.shift(NOW.distance)
    assert cache.due(NOW.steady + 3999, NOW.wall) == []


def test_records_come_back_as_they_are_in_the_log(cache: Cache) -> None:
    headers: Headers = [("a", None), ("a", b""), ("\u00fc", b"\xff")]
    record = delay(Publication("orders", None, None, headers), "a", 1.0, LOG)
    load(cache, [at(5, record)])
    entry = cache.find(b"a")
    assert entry is not None
    assert entry.record() == (b"", record.headers, NOW.wall)


def test_a_record_that_cannot_be_read_is_due_at_once_with_its_fault(cache: Cache) -> None:
    load(cache, [at(0, Publication(LOG, b"a", b"{}", [("kworker-due", b"nan")]))])
    (entry,) = cache.due(NOW.steady, NOW.wall)
    assert "nan" in entry.fault


def test_a_record_whose_headers_cannot_be_read_is_told_and_a_tombstone_stays_one(cache: Cache) -> None:
    spoiled = [MemoryRecord(n, None, b"a", value, 0, LOG, spoiled=True) for n, value in enumerate([b"{}", None])]
    load(cache, spoiled[:1])
    entry = cache.find(b"a")
    assert entry is not None
    assert "not UTF-8" in entry.fault
    apply(cache, spoiled[1:])
    assert cache.find(b"a") is None


def test_a_file_that_another_has_filled_is_gone_on_with(tmp_path: Path) -> None:
    """Named only until both have it open."""
    opened: list[sqlite3.Connection] = []
    first = Cache(str(tmp_path), shown=lambda path: opened.append(connect(path)))
    assert list(tmp_path.iterdir()) == []
    tick = Standing.begin(Schedule(name="tick", task="x", trigger=Every(60.0), topic="orders"), NOW.wall / 1000)
    replay.load(first, [at(0, waiting("a")), at(1, record(tick, LOG)), at(2, waiting("b"))], LOG, NOW)
    first.settle()
    first.close()
    (file,) = opened
    again = Cache(file=file)
    again.settled, again.position, again.pending = True, 3, 2
    assert [entry.id for entry in again.first(9)] == [b"a", b"b"]
    assert again.schedules.count == 1
    replay.apply(again, [at(3, waiting("a")), at(4, tombstone(b"b", 2, Outcome.CANCELLED, LOG))], LOG, NOW)
    assert (again.pending, again.position, [entry.offset for entry in again.first(9)]) == (1, 5, [3])
    again.close()


def test_it_is_forgotten_after_an_hour_how_a_wait_ended(cache: Cache) -> None:
    load(cache, [at(0, waiting("a")), at(1, tombstone(b"a", 0, Outcome.CANCELLED, LOG))])
    assert cache.outcome(b"a") == "cancelled"
    cache.forget(NOW.wall + 3_600_001)
    assert cache.outcome(b"a") is None


def test_who_only_counts_keeps_neither_how_waits_ended_nor_many_pages(tmp_path: Path) -> None:
    """The exporter follows the log for weeks, and a cache of each of its partitions."""
    file = connect(str(tmp_path / "file"))
    cache = Cache(file=file, small=True)
    load(cache, [at(0, waiting("a")), at(1, tombstone(b"a", 0, Outcome.CANCELLED, LOG))])
    ended = [(waiting(f"{n}"), tombstone(b"%d" % n, 2 * n, Outcome.HANDED_OVER, LOG)) for n in range(1, 2000)]
    apply(cache, [at(2 * n + m, one) for n, pair in enumerate(ended, 1) for m, one in enumerate(pair)])
    assert cache.pending == 0
    assert [cache.outcome(id) for id in (b"a", b"1", b"1999")] == [None] * 3
    ((pages,), (kept,)) = (file.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "cache_size"))
    assert pages < 20  # tables and indexes, with nothing in them
    assert kept == -256
    cache.close()


def test_the_file_has_no_name_so_that_a_killed_worker_leaves_none(cache: Cache, tmp_path: Path) -> None:
    load(cache, [at(n, waiting(f"{n}", value=b"x" * 100_000)) for n in range(200)])
    assert list(tmp_path.iterdir()) == []
    assert cache.pending == 200
