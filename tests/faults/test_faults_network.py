"""FAULTS.md "Faults" 23 to 25: networks that are slow, cut in pieces, silent, reset, or that lose the answers only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.storm import Backlog
from kit import Broker
from kit.proxy import Proxy, Stream, Toxiproxy
from kit.stage import metric
from kit.trial import Trial
from kit.worker_process import WorkerProcess

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.timeout(300)]

SESSION = 6.0
"""The session timeout that workers have by default."""

BOTH: tuple[Stream, ...] = ("upstream", "downstream")
PARTITIONS = 4


@dataclass(frozen=True)
class Network:
    """A broker, reached directly by its own address, and by workers through a proxy."""

    broker: Broker
    proxy: Proxy


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Toxiproxy() as toxiproxy:
        broker = Broker()
        proxy = toxiproxy.before(broker)
        with broker:
            yield Network(broker, proxy)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("latency", {"latency": 400, "jitter": 200}),
        ("bandwidth", {"rate": 10}),
        ("slicer", {"average_size": 20, "size_variation": 10, "delay": 1000}),
    ],
    ids=["latency", "10 KB a second", "slicer"],
)
def test_fault_23_slow_networks(network: Network, tmp_path: Path, kind: str, attributes: dict[str, int]) -> None:
    """Nothing is lost and nothing runs twice, only slower; heartbeats get through, too."""
    with Trial(tmp_path, network.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 0, trouble=True)
        backlog.publish(600)
        with network.proxy.harmed(kind, *BOTH, **attributes):
            began = time.monotonic()
            workers = [trial.start("--bootstrap", network.proxy.address) for _ in range(2)]
            trial.wait_over(500, 120)
            print(f"500 tasks after {time.monotonic() - began:.1f} s")
            for _ in range(5):
                over = len(trial.ledger.over)
                backlog.publish(100)
                trial.wait_over(over + 50)
            trial.finish(120)
            print(f"{len(trial.ledger.over)} tasks after {time.monotonic() - began:.1f} s")
            assert trial.exposed == []
            assert sum(metric(worker, "kworker_rebalances_total", event="lost") for worker in workers) == 0
        assert trial.living == workers


def through_and_direct(trial: Trial, backlog: Backlog, network: Network) -> tuple[WorkerProcess, WorkerProcess]:
    """One worker behind the proxy and one that is not; both work."""
    backlog.fill()
    workers = trial.start("--bootstrap", network.proxy.address), trial.start()
    pids = {worker.pid for worker in workers}

    def work() -> bool:
        backlog.fill()
        return pids <= {run.pid for run in trial.ledger.runs}

    trial.wait(work, "work in both")
    held = trial.commits.last.held
    trial.wait(lambda: trial.commits.last.held > held, "commits")
    return workers


def works_again(trial: Trial, backlog: Backlog, worker: WorkerProcess) -> None:
    """Wait until it has begun a task after now."""
    now = time.monotonic_ns()

    def works() -> bool:
        backlog.fill()
        return any(run.pid == worker.pid and run.start > now for run in trial.ledger.runs[-2000:])

    trial.wait(works, "work in the worker that was cut off")


def silence(trial: Trial, backlog: Backlog, network: Network, *streams: Stream) -> WorkerProcess:
    """Cut the first worker off until the other one has its partitions; it is heard again when this returns."""
    cut, other = through_and_direct(trial, backlog, network)
    lost = metric(cut, "kworker_rebalances_total", event="lost")
    with network.proxy.harmed("timeout", *streams, timeout=0):
        before, began = trial.commits.now(), time.monotonic()

        def taken_over() -> bool:
            backlog.fill()
            return len(other.status()["assignment"]) == PARTITIONS

        trial.wait(taken_over, "the other worker to take over")
        print(f"taken over after {time.monotonic() - began:.1f} s")
        trial.wait(
            lambda: metric(cut, "kworker_rebalances_total", event="lost") > lost, "it to see that it was cut off"
        )
        held = trial.commits.last.held
        trial.wait(lambda: trial.commits.last.held > held + 100, "commits of the other")
        print(f"exposed: {len(trial.expose(before, cut))}")
    return cut


@pytest.mark.parametrize("streams", [BOTH, ("upstream",)], ids=["nothing passes", "requests are lost"])
def test_fault_24_black_hole_longer_than_the_session(
    network: Network, tmp_path: Path, streams: tuple[Stream, ...]
) -> None:
    """Another worker takes over; what the silent one did since its last commit runs again, and it comes back."""
    with Trial(tmp_path, network.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 3000, trouble=True)
        cut = silence(trial, backlog, network, *streams)
        works_again(trial, backlog, cut)
        trial.finish()
        assert len(trial.living) == 2
        assert cut.ready()


def test_fault_24_connections_are_reset(network: Network, tmp_path: Path) -> None:
    """Every 100 ms for ten seconds, in the middle of whatever is on its way: shorter than a session, at times."""
    with Trial(tmp_path, network.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 3000, trouble=True)
        worker, other = through_and_direct(trial, backlog, network)
        before = trial.commits.now()
        with network.proxy.harmed("reset_peer", *BOTH, timeout=100):
            trial.wait(lambda: "onnection reset" in worker.logged() or "isconnected" in worker.logged(), "a reset")
            ends = time.monotonic() + 10.0  # the length of the fault is the scenario
            while time.monotonic() < ends:
                backlog.fill()
                assert trial.living == [worker, other]
            trial.expose(before, worker)
        works_again(trial, backlog, worker)
        trial.finish()
        assert trial.living == [worker, other]


def test_fault_25_half_open_responses_are_lost(network: Network, tmp_path: Path) -> None:
    """Requests arrive, answers do not: the broker has commits of which the worker knows nothing. None ever falls."""
    with Trial(tmp_path, network.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 3000, trouble=True)
        cut = silence(trial, backlog, network, "downstream")
        works_again(trial, backlog, cut)
        trial.finish()
        assert len(trial.living) == 2
        assert cut.ready()


def test_fault_25_half_open_for_a_moment(network: Network, tmp_path: Path) -> None:
    """Shorter than a session: the commit whose answer was lost is made again, and nothing runs twice for it."""
    with Trial(tmp_path, network.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 3000)
        backlog.fill()
        worker = trial.start("--bootstrap", network.proxy.address, "-X", "session.timeout.ms=20000")
        trial.wait_over(300)
        held = trial.commits.last.held
        trial.wait(lambda: trial.commits.last.held > held, "commits")
        with network.proxy.harmed("timeout", "downstream", timeout=0):
            known = metric(worker, "kworker_commits_total")
            began = trial.commits.last.held
            trial.wait(lambda: trial.commits.last.held > began, "a commit whose answer is lost")
            trial.wait(lambda: trial.commits.unchanged > 3, "the end of the commits that are not answered")
            print(f"{trial.commits.last.held - began} offsets committed that the worker knows nothing of")
            assert metric(worker, "kworker_commits_total") == known
        backlog.fill()
        trial.finish()
        assert trial.exposed == []
        assert metric(worker, "kworker_rebalances_total", event="lost") == 0
