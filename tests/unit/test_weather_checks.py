"""The checks of the soak find what they are there to find: disorder of a key, and publications lost or sent twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kit.ledger import Run
from kit.weather import Weather
from kit.weather_report import disorder, once_a_success


def run(id: str, start: int, end: int | None, *, attempt: int = 1, pid: int = 1, outcome: str = "done") -> Run:
    return Run(id, attempt, "k", int(id), pid, start, end, outcome)


def weather(*runs: Run, exposed: set[str] | None = None, **more: Any) -> Weather:
    """One that was noted so, of which nothing else is asked."""
    given = {"killed": {}, "zombies": []} | more
    return cast(Weather, SimpleNamespace(ledger=SimpleNamespace(runs=list(runs)), exposed=[exposed or set()], **given))


def test_what_is_in_order() -> None:
    failed = run("2", 30, 40, outcome="failed")
    assert not disorder(weather(run("1", 10, 20), failed, run("2", 41, 50, attempt=2), run("3", 60, 70)))
    back = [run("1", 10, 20), run("2", 25, None, outcome=""), run("1", 50, 60, pid=2), run("2", 61, 70, pid=2)]
    assert not disorder(weather(*back, exposed={"1", "2"}, killed={1: 40}))
    died = run("1", 10, None, outcome="")
    assert not disorder(weather(died, run("1", 20, 30, attempt=2), run("2", 40, 50)))
    late = [run("1", 10, 90), run("1", 50, 60, pid=2)]
    assert not disorder(weather(*late, exposed={"1"}, zombies=[(1, 5, 100)]))


@pytest.mark.parametrize(
    ("what", "runs", "exposed"),
    [
        ("at once", [run("1", 10, 30), run("2", 20, 40)], set()),
        ("at once", [run("1", 10, None, outcome=""), run("2", 20, 40)], set()),
        ("back", [run("2", 10, 20), run("1", 30, 40)], {"1", "2"}),  # skipped, and nothing had run it before
        ("back", [run("1", 1, 2), run("2", 10, 20), run("1", 30, 40)], set()),  # without a cause
        ("again", [run("1", 1, 2), run("1", 10, 20)], set()),
    ],
)
def test_what_is_not(what: str, runs: list[Run], exposed: set[str]) -> None:
    (found,) = disorder(weather(*runs, exposed=exposed))
    assert found.startswith(what)


def message(id: str) -> Any:
    return SimpleNamespace(value=lambda: b'{"id": "%s"}' % id.encode())


def test_publications_are_counted() -> None:
    ran = weather(run("1", 1, 2), run("2", 3, None, outcome=""), run("3", 4, 5), run("3", 6, 7))
    once_a_success(ran, {"1", "2", "3"}, [message("1"), message("3"), message("3")])
    with pytest.raises(AssertionError, match="not published: 1"):
        once_a_success(ran, {"1", "3"}, [message("3")])
    with pytest.raises(AssertionError, match="published by none: 2"):
        once_a_success(ran, {"1", "2"}, [message("1"), message("2")])
    with pytest.raises(AssertionError, match="more often than done"):
        once_a_success(ran, {"1"}, [message("1"), message("1")])
