"""FAULTS.md "Faults" 19 to 22: a broker that freezes for a minute, and three brokers of which some go."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from faults.storm import Backlog
from kit import Broker, create_topic, end_offsets, read_all, wait_for
from kit.cluster import Cluster
from kit.commits import Sample
from kit.stage import metric
from kit.trial import Trial, Work
from kit.worker_process import WorkerProcess

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.timeout(300)]

RESUMED = 10.0
"""Seconds within which work goes on when the broker is back."""

GAP = 12.0
"""Seconds without a finished task of a partition, at most, when its leader is killed."""

PARTITIONS = 6


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes, all of them controllers."""
    with Cluster() as cluster:
        yield cluster


def longest_gap(trial: Trial, since: int, partitions: Collection[int]) -> float:
    """Seconds without a task of these partitions that ended, at most, since a moment (time.monotonic_ns)."""
    ends = [at for id, at in trial.ledger.over.items() if trial.ledger.places[id][0] in partitions]
    return (
        max(after - before for before, after in itertools.pairwise([since, *sorted(at for at in ends if at > since)]))
        / 1e9
    )


def lost(workers: Iterable[WorkerProcess]) -> float:
    """How often their partitions were given away."""
    return sum(metric(worker, "kworker_rebalances_total", event="lost") for worker in workers)


def test_fault_19_broker_frozen_for_a_minute(own_broker: Broker, tmp_path: Path) -> None:
    """Ten sessions long: no worker ends, nothing is lost, and work goes on within 10 s."""
    with Trial(tmp_path, own_broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        backlog.fill()
        workers = [trial.start("--concurrency", "8") for _ in range(2)]
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        trial.wait_over(len(trial.ledger.over) + 300)
        own_broker.freeze()
        before = trial.commits.last
        time.sleep(60.0)  # the length of the freeze is the scenario
        assert trial.living == workers
        trial.expose(before, *workers)
        back = time.monotonic_ns()
        own_broker.thaw()
        new = backlog.publish(200)
        trial.wait(lambda: new & trial.ledger.over.keys(), "new work to be done", RESUMED)
        print(f"work went on after {(min(r.start for r in trial.ledger.runs if r.start > back) - back) / 1e9:.1f} s")
        trial.finish()
        assert trial.living == workers
        trial.wait(lambda: all(worker.ready() for worker in workers), "readiness of both")


def test_fault_20_leader_kill(cluster: Cluster, tmp_path: Path) -> None:
    """Killed with -9 is a node that leads partitions: they go on within 12 s. The last one coordinates the group, too.

    That last one has no such bound: sessions of 6 s end before there is another coordinator, and it waits for the
    members that it was told of, for another session, before it lets them in again.
    """
    with Trial(tmp_path, cluster.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, ms=20, trouble=True)
        backlog.fill()
        workers = [trial.start("--concurrency", "8") for _ in range(2)]
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        for bounded in (True, True, False):
            cluster.wait_whole()
            backlog.fill()
            trial.wait_over(len(trial.ledger.over) + 300)
            leaders = [cluster.leader(trial.topic, partition) for partition in range(PARTITIONS)]
            coordinator = cluster.coordinator(trial.group)
            eligible = [number for number in cluster.nodes if (number != coordinator) is bounded]
            number = max(eligible, key=leaders.count)
            led = {partition for partition in range(PARTITIONS) if leaders[partition] == number}
            taken, before, killed = lost(workers), trial.commits.now(), time.monotonic_ns()
            cluster.nodes[number].kill()
            trial.expose(before, *workers)
            new = {id for id in backlog.publish(500) if trial.ledger.places[id][0] in led}
            trial.wait(lambda new=new: new & trial.ledger.over.keys(), "work of its partitions")  # type: ignore[misc]
            gap = longest_gap(trial, killed, led)
            print(f"killed node {number} of {leaders}, coordinator {coordinator}: {gap:.1f} s without work of {led}")
            assert number not in [cluster.leader(trial.topic, partition) for partition in range(PARTITIONS)]
            if bounded:
                assert gap <= GAP
            if lost(workers) > taken:
                trial.expose(before, *workers)
            cluster.nodes[number].start()
            cluster.wait_whole()
            cluster.elect_preferred(trial.topic)
        trial.finish()
        assert trial.living == workers


def test_fault_21_below_min_isr(tmp_path: Path) -> None:
    """Two of three freeze: what must be written waits, and so does its offset, while other offsets are committed.

    Node 1 is the only controller, and one replica is enough for commits: one that goes too far would be taken.
    """
    with Cluster(controllers=1, server_properties={"min.insync.replicas": "1"}) as cluster:
        alive = cluster.nodes[1].bootstrap
        with Trial(tmp_path, alive, PARTITIONS) as trial:
            gate, written = tmp_path / "gate", f"{trial.topic}.written"
            for target in (f"{trial.topic}.dlq", written):
                create_topic(alive, target, 1, {"min.insync.replicas": "2"})
            waiting = [Work(f"dead {n}", partition=n, dead=True, until=str(gate)) for n in (0, 1)]
            waiting += [Work(f"write {n}", partition=n, publish=written, until=str(gate)) for n in (2, 3)]
            trial.publish([*waiting, *(Work(f"{n}", partition=n % PARTITIONS) for n in range(600))])
            worker = trial.start("--concurrency", "8")
            trial.wait_held(600)
            cluster.wait_whole()
            for number in (2, 3):
                cluster.nodes[number].freeze()
            trial.wait(lambda: all(_led_by_one(alive, t) for t in (trial.topic, written)), "node 1 to lead everything")
            before = trial.commits.last
            frozen = time.monotonic_ns()
            gate.touch()
            trial.publish(Work(f"later {n}", partition=4 + n % 2) for n in range(100))
            trial.wait(lambda: worker.get("/readyz")[1].count("is paused") == 4, "four paused partitions", 90)
            ends = end_offsets(alive, trial.topic)
            trial.wait(lambda: _lagging(trial.commits.last, ends) == {0, 1, 2, 3}, "commits of the others", 90)
            samples = [sample for sample in trial.commits.samples if sample.before > frozen]
            assert not [one.id for one in waiting for s in samples if s.holds(*trial.ledger.places[one.id])]
            assert {one.id for one in waiting} <= trial.ledger.over.keys()
            assert end_offsets(alive, f"{trial.topic}.dlq") == end_offsets(alive, written) == {0: 0}
            print(f"while two are frozen: {samples[-1].committed}, of {ends}")
            trial.expose(before, worker)
            for number in (2, 3):
                cluster.nodes[number].thaw()
            trial.finish(90)
            assert trial.dead() == {"dead 0", "dead 1"}
            assert {message.value() for message in read_all(alive, written)} == {b"write 2", b"write 3"}
            assert trial.living == [worker]
            assert worker.ready()


def _lagging(sample: Sample, ends: dict[int, int]) -> set[int]:
    """Partitions that are not committed up to their ends."""
    return {partition for partition, end in ends.items() if sample.committed.get(partition, (0,))[0] != end}


def _led_by_one(bootstrap: str, topic: str) -> bool:
    found = AdminClient({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=10).topics[topic]
    return all(partition.leader == 1 for partition in found.partitions.values())


def test_fault_22_the_coordinator_moves(cluster: Cluster, tmp_path: Path) -> None:
    """Its node stops, comes back, and is elected again: commits and work go on each time."""
    with Trial(tmp_path, cluster.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 3000, ms=20, trouble=True)
        backlog.fill()
        workers = [trial.start("--concurrency", "8") for _ in range(2)]
        trial.wait(lambda: len({run.pid for run in trial.ledger.runs}) == 2, "work in both workers")
        goes_on(trial, backlog, time.monotonic_ns())
        for _ in range(2):
            number = cluster.coordinator(trial.group)
            before, moved = trial.commits.last, time.monotonic_ns()
            cluster.nodes[number].stop()
            goes_on(trial, backlog, moved)
            other = cluster.coordinator(trial.group)
            assert other != number
            cluster.nodes[number].start()
            cluster.wait_whole()
            moved = time.monotonic_ns()
            cluster.elect_preferred("__consumer_offsets")
            wait_for(lambda number=number: cluster.coordinator(trial.group) == number, 30, "the move back")  # type: ignore[misc]
            goes_on(trial, backlog, moved)
            trial.expose(before, *workers)
            print(f"the coordinator was node {number}, then {other}, then {number} again")
        trial.finish()
        assert trial.living == workers
        assert all(worker.ready() for worker in workers)


def goes_on(trial: Trial, backlog: Backlog, since: int) -> None:
    """Commits go on, and new work in every partition, without a long gap in any."""
    held = trial.commits.last.held
    backlog.fill()
    new = backlog.publish(300)
    for partition in range(PARTITIONS):
        there = {id for id in new if trial.ledger.places[id][0] == partition}
        trial.wait(lambda there=there: there & trial.ledger.over.keys(), f"new work in partition {partition}")  # type: ignore[misc]
    trial.wait(lambda: trial.commits.last.held > held + 100, "new commits", 2 * GAP)
    gap = max(longest_gap(trial, since, {partition}) for partition in range(PARTITIONS))
    print(f"{gap:.1f} s without work in some partition")
    assert gap <= GAP
