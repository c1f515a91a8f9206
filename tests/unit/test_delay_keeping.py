"""Caches of partitions that moved away: given back while they stand for the log, and thrown away after a while."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kworker.timekeeper.cache import Cache
from kworker.timekeeper.keeping import LONGEST, Keeping

DAY = 86_400.0


def kept(folder: Path, retention: float = DAY) -> tuple[Keeping, Cache]:
    """One of partition 3, read up to 100 s."""
    keeping, cache = Keeping(), Cache(str(folder))
    keeping.retention = retention
    keeping.put(3, cache, 100.0, 5_000)
    return keeping, cache


def closed(cache: Cache) -> bool:
    try:
        cache.requests()
    except sqlite3.ProgrammingError:
        return True
    return False


def test_it_is_given_back_once(tmp_path: Path) -> None:
    keeping, cache = kept(tmp_path)
    assert keeping.take(2, 200.0, 5_000) is None
    assert keeping.take(3, 200.0, 5_900) is cache
    assert keeping.take(3, 200.0, 5_000) is None
    assert not closed(cache)
    cache.close()


@pytest.mark.parametrize(
    ("retention", "now", "distance"),
    [(DAY, 100.0 + LONGEST + 1, 5_000), (60.0, 131.0, 5_000), (0.0, 101.0, 5_000), (DAY, 200.0, 7_000)],
)
def test_one_that_may_not_stand_for_the_log_any_more_is_thrown_away(
    tmp_path: Path, retention: float, now: float, distance: int
) -> None:
    keeping, cache = kept(tmp_path, retention)
    assert keeping.take(3, now, distance) is None
    assert closed(cache)


def test_nobody_needs_to_ask_for_it(tmp_path: Path) -> None:
    keeping, cache = kept(tmp_path)
    keeping.expire(100.0 + LONGEST)
    assert not closed(cache)
    keeping.expire(101.0 + LONGEST)
    assert closed(cache)


def test_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    keeping, cache = kept(tmp_path)
    newer = Cache(str(tmp_path))
    keeping.put(3, newer, 150.0, 5_000)
    assert closed(cache)
    assert keeping.take(3, 200.0, 5_000) is newer
    newer.close()
