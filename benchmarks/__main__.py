"""`python -m benchmarks`: the command line of the benchmark; the Makefile has the usual calls."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks import table
from benchmarks.machine import described
from benchmarks.measure import Bench
from benchmarks.peer import Missing, Peer
from benchmarks.roster import ALL
from benchmarks.series import Row, measured
from benchmarks.workload import chosen
from kit.broker import Broker

BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"


@click.command()
@click.option("--bootstrap", help="A running Kafka; else one is started for the run.")
@click.option("--only", "workloads", multiple=True, help="This workload only (W1, W2-64, W1-kill ...); repeatable.")
@click.option("--peer", "names", multiple=True, help="Peers whose name begins so only; repeatable.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each peer.")
@click.option(
    "--smoke", is_flag=True, help="Few tasks, one run, no W2-256 and W4: shows that all works, measures nothing."
)
@click.option("--write", type=click.Path(path_type=Path), help="Put the results into this document, between its marks.")
def main(
    bootstrap: str | None,
    workloads: tuple[str, ...],
    names: tuple[str, ...],
    runs: int,
    smoke: bool,
    write: Path | None,
) -> None:
    """Measure kworker and its peers side by side. Exit code 1 when a run was invalid."""
    document = write.read_text("utf-8") if write else ""
    if write and not (BEGIN in document and END in document):
        raise click.UsageError(f"{write} has no place for results: a line {BEGIN} and a line {END}")
    about = described(own_broker=bootstrap is None)
    found, away = _here([peer for peer in ALL if not names or peer.name.startswith(names)])
    rows: list[Row] = []
    with _broker(bootstrap) as address:
        bench = Bench(address, few=smoke)
        for workload in chosen(list(workloads)):
            rows += measured(bench, workload, [peer for peer, _ in found], 1 if smoke else runs, _say)
    kind = "smoke run, no measurement" if smoke else f"medians of {runs} interleaved runs"
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    parts = [f"`{command}`: {kind}.", "\n".join(f"- {line}" for line in about), table.tables(rows)]
    results = "\n\n".join([*parts, "### Peers", table.peers(found, away)])
    click.echo(results)
    if write:
        before, after = document[: document.index(BEGIN) + len(BEGIN)], document[document.index(END) :]
        write.write_text(f"{before}\n\n{results}\n{after}", "utf-8")
    sys.exit(any(row.faults for row in rows))


@contextmanager
def _broker(bootstrap: str | None) -> Iterator[str]:
    if bootstrap is not None:
        yield bootstrap
        return
    with Broker() as broker:
        yield broker.bootstrap


def _here(peers: list[Peer]) -> tuple[list[tuple[Peer, str]], list[tuple[Peer, str]]]:
    """Those that can run here, with their versions, and those that cannot, with the reason."""
    found, away = [], []
    for peer in peers:
        try:
            found.append((peer, peer.versions()))
        except Missing as missing:
            away.append((peer, str(missing)))
            _say(f"{peer.name} is left out: {missing}")
    return found, away


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
