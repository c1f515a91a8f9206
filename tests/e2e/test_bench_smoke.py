"""The benchmark works and judges: few tasks, no number is looked at but those that must be 0."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import run
from benchmarks.measure import Bench
from benchmarks.peer import Peer
from benchmarks.place import Place
from benchmarks.plan import WORKLOADS
from benchmarks.workload import Workload

from kit import Kafka
from kit.leash import leashed

ROOT = Path(__file__).parents[2]
PEERS = ("kworker", "raw consume loop", "pieces")
UNCOUNTED = ("kworker Client", "kworker AsyncClient", "kworker --help")
"""Rows without a lag: of programs that run no tasks."""
ROW = re.compile(r"^\| \**([a-z, ]+?)\** \|(?: .* \|)? ([^|]*) \| ([^|]*) \| ([^|]*) \| (valid|INVALID[^|]*) \|$", re.M)

LIAR = """
from benchmarks.bodies import run
from benchmarks.reader import reading

with reading() as reader:
    while not reader.stopping:
        for number, value in enumerate(reader.batch(1000, 0.05)):
            {does}
        reader.tick()
"""
"""A worker that commits whatever it reads, and runs what it likes."""


@pytest.mark.timeout(300)
def test_every_workload_ends_with_nothing_missing_and_no_lag(kafka: Kafka) -> None:
    chosen = [word for peer in PEERS for word in ("--peer", peer)]
    done = subprocess.run(
        leashed(sys.executable, "-m", "benchmarks", "--smoke", "--bootstrap", kafka.bootstrap, *chosen),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = ROW.findall(done.stdout)
    assert {name for name, *_ in rows if name.startswith("kworker")} == {
        "kworker threads",
        "kworker threads, key order",
        "kworker coroutines",
        "kworker processes",
        "kworker all executors",
    }
    for name, missing, _, lag, verdict in rows:
        assert (missing, lag, verdict) == ("0", "0", "valid"), (name, done.stdout)
    assert done.stdout.count("| valid |") == len(rows) + len(UNCOUNTED), done.stdout
    for workload in WORKLOADS:
        title = "| alone: an attempt |" if workload.name == "PIECES" else f"### {workload.name}:"
        assert (title in done.stdout) == bool(workload.few), title


def liar(does: str) -> Peer:
    """A peer that does this with each value."""

    def command(place: Place) -> list[str]:
        return [sys.executable, "-c", LIAR.format(does=does)]

    return Peer("liar", frozenset({"W1"}), command, lambda: "", "")


@pytest.fixture
def few() -> Workload:
    """Two hundred tasks that do nothing."""
    return Workload("x", "", "drain", 200, 200)


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        ("number % 10 and run(value)", r"\d+ of 200 tasks never ran"),
        ("run(value); reader.tick = lambda: None; reader._commit = lambda **_: None", "200 records not committed"),
        ("run(value); 1 / 0", "ended with 1, .*: ZeroDivisionError"),
    ],
    ids=["skips", "does not commit", "ends"],
)
def test_a_peer_that_loses_tasks_is_invalid(
    kafka: Kafka, few: Workload, does: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STALLED", 3.0)
    monkeypatch.setattr("benchmarks.trial.COMMITTED", 2.0)
    bench = Bench(kafka.bootstrap)
    with bench.topic(few) as topic:
        measured = bench.measure(liar(does), few, topic)
    assert any(re.search(fault, found) for found in measured.faults), measured


def test_what_runs_twice_is_shown_and_allowed(kafka: Kafka, few: Workload) -> None:
    bench = Bench(kafka.bootstrap)
    with bench.topic(few) as topic:
        measured = bench.measure(liar("run(value); run(value)"), few, topic)
    assert measured.faults == []
    assert (measured.figures["missing"], measured.figures["repeated"], measured.figures["lag"]) == (0, 200, 0)
