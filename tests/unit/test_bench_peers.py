"""What surrounds the peers of the benchmark: how many tasks a slow one is given, and the environment it runs in."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmarks import environment
from benchmarks.environment import PINS, Environment, interpreter
from benchmarks.peer import Missing, Peer
from benchmarks.plan import WORKLOADS
from benchmarks.roster import ALL


def _peer(most: int | None) -> Peer:
    return Peer("one", frozenset({"W1"}), lambda place: [], lambda: "", "", most)


def test_a_slow_peer_is_given_fewer_tasks_and_no_other() -> None:
    assert _peer(20_000).tasks(1_000_000) == 20_000
    assert _peer(20_000).tasks(5_000) == 5_000
    assert _peer(None).tasks(1_000_000) == 1_000_000


def test_every_peer_has_a_name_of_its_own_and_workloads_that_exist() -> None:
    names = Counter(peer.name for peer in ALL)
    assert max(names.values()) == 1, names
    assert {name for peer in ALL for name in peer.workloads} <= {workload.name for workload in WORKLOADS}


def test_a_peer_that_is_given_fewer_tasks_says_so_in_its_settings() -> None:
    capped = [peer for peer in ALL if peer.most is not None]
    assert capped
    assert [peer.name for peer in capped if f"{peer.most:,} tasks at most" not in peer.settings] == []


@pytest.mark.parametrize("pins", sorted(PINS.glob("*.txt")), ids=lambda pins: pins.stem)
def test_every_package_of_a_peer_is_pinned(pins: Path) -> None:
    assert [line for line in pins.read_text().split() if len(line.split("==")) != 2] == []


def test_the_python_of_kworker_is_taken_if_it_will_do() -> None:
    assert interpreter(sys.version_info[:2]) == sys.executable


def test_a_python_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing, match=r"needs Python 3\.99 or newer"):
        interpreter((3, 99))


def test_what_pip_cannot_install_is_missing_and_not_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.txt").write_text("this is no requirement\n")
    monkeypatch.setattr(environment, "PINS", tmp_path)
    monkeypatch.setenv("KWORKER_PEERS_HOME", str(tmp_path / "home"))
    for _ in range(2):
        with pytest.raises(Missing, match=r"pip cannot install broken\.txt"):
            Environment("broken", ()).program()
