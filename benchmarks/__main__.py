"""`python -m benchmarks`: measures, into a file of results; the Makefile has the usual calls."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks.document import rendered
from benchmarks.machine import described
from benchmarks.measure import Bench
from benchmarks.peer import Missing, Peer
from benchmarks.plan import chosen
from benchmarks.roster import ALL
from benchmarks.series import described as line_of
from benchmarks.series import measured
from benchmarks.store import Part, Store, read
from benchmarks.trial import Measurement
from kit.broker import Broker

OURS = ("kill", "scale", "rebalance")
"""Kinds of which the smoke run is kworker's alone."""


@click.command()
@click.option("--bootstrap", help="A running Kafka; else one is started for the run.")
@click.option("--only", "workloads", multiple=True, help="This workload only (W1, W8, W8-size, W1-kill); repeatable.")
@click.option("--peer", "names", multiple=True, help="Peers whose name begins so only; repeatable.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each peer.")
@click.option("--smoke", is_flag=True, help="Few tasks, one run, a point or two of each: shows that all works.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of results, to which this part is added; a workload that it holds already is replaced.",
)
def main(
    bootstrap: str | None, workloads: tuple[str, ...], names: tuple[str, ...], runs: int, smoke: bool, into: Path | None
) -> None:
    """Measure kworker and its peers side by side. Exit code 1 when a run was invalid."""
    plan = list(chosen(list(workloads)))
    if unknown := [name for name in workloads if not list(chosen([name]))]:
        raise click.UsageError(f"no such workload: {', '.join(unknown)}; see docs/benchmarks.md")
    part = Part(shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), smoke=smoke)
    part.machine = described(own_broker=bootstrap is None)
    wanted = {workload.name for workload in plan}
    peers = [peer for peer in ALL if peer.workloads & wanted and (not names or peer.name.startswith(names))]
    found = _here(peers, part)
    with _file(into) as path, _broker(bootstrap) as address:
        store, bench, valid = Store(path), Bench(address, few=smoke), True
        store.begin(part)

        def tell(measurement: Measurement) -> None:
            store.add(measurement)
            _say(line_of(measurement))

        for workload in plan:
            ours = smoke and workload.kind in OURS  # each takes seconds, and peers were seen at work by then
            part_in = [peer for peer in found if peer.name.startswith("kworker") or not ours]
            rows = measured(bench, workload, part_in, 1 if smoke else runs, tell)
            valid = valid and not any(row.faults for row in rows)
        if into is None:
            click.echo(rendered({"results": read(path)}))
    sys.exit(not valid)


@contextmanager
def _file(into: Path | None) -> Iterator[Path]:
    if into is not None:
        yield into
        return
    with tempfile.TemporaryDirectory(prefix="kworker-results-") as folder:
        yield Path(folder, "results.jsonl")


@contextmanager
def _broker(bootstrap: str | None) -> Iterator[str]:
    if bootstrap is not None:
        yield bootstrap
        return
    with Broker() as broker:
        yield broker.bootstrap


def _here(peers: list[Peer], part: Part) -> list[Peer]:
    """Those that can run here; `part` is told their versions, and of the others the reason."""
    found = []
    for peer in peers:
        try:
            part.peers[peer.name] = (peer.versions(), peer.settings)
            found.append(peer)
        except Missing as missing:
            part.away[peer.name] = str(missing)
            _say(f"{peer.name} is left out: {missing}")
    return found


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
