"""`make bench-guard`: is the worker of this tree slower than that of a commit? Both in one run, interleaved.

The commit runs twice in each round, as two peers that are the same: how far those two are apart, at most, is the noise
of this machine now. The tree is slower if the median of its rounds, each against the commit's in the same round, is
worse by more than that.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks.measure import Bench
from benchmarks.peers.kworker import PEERS
from benchmarks.plan import WORKLOADS
from benchmarks.run import ROOT
from kit.broker import Broker

FIGURES = {"rate": 1, "cpu_us": -1, "p50": -1}
"""What is compared, by the figures of a measurement; 1: more is better, -1: less is."""

WATCHED = ("W1", "W2-64", "W5")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure of one peer in one workload. change: of the tree, as a part; noise: of the machine, as a part.

    A change is positive for better. Noise n: two that are the same were apart by a factor of up to 1 + n.
    """

    name: str
    change: float
    noise: float

    @property
    def slower(self) -> bool:
        """Whether the tree is worse, beyond the noise."""
        return 1 + self.change < 1 / (1 + self.noise)

    def __str__(self) -> str:
        return f"{'SLOWER' if self.slower else 'ok':6} {self.name}: {self.change:+.1%}, noise {self.noise:.1%}"


def judged(name: str, direction: int, rounds: Sequence[tuple[float, float, float]]) -> Verdict:
    """Judge one figure by its rounds: (commit, commit again, tree) each."""
    noise = max(max(first, second) / min(first, second) - 1 for first, second, _ in rounds)
    changes = [(tree / ((first + second) / 2)) ** direction - 1 for first, second, tree in rounds]
    return Verdict(name, median(changes), noise)


@click.command()
@click.option("--base", default="HEAD", show_default=True, help="The commit to compare with.")
@click.option("--bootstrap", help="A running Kafka; else one is started for the run.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each of the three.")
@click.option("--smoke", is_flag=True, help="Few tasks: shows that it works, judges nothing.")
def main(base: str, bootstrap: str | None, rounds: int, smoke: bool) -> None:
    """Compare this tree with a commit. Exit code 1 when it is slower, or a run was invalid."""
    with tempfile.TemporaryDirectory(prefix="kworker-base-") as folder:
        _unpack(base, Path(folder))
        sides = [Path(folder, "worker"), Path(folder, "worker"), ROOT / "worker"]
        if bootstrap is not None:
            verdicts = _compared(Bench(bootstrap, few=smoke), sides, rounds)
        else:
            with Broker() as broker:
                verdicts = _compared(Bench(broker.bootstrap, few=smoke), sides, rounds)
    for verdict in verdicts:
        click.echo(verdict)
    sys.exit(not smoke and any(verdict.slower for verdict in verdicts))


def _compared(bench: Bench, sides: Sequence[Path], rounds: int) -> list[Verdict]:
    verdicts = []
    for workload in (one for one in WORKLOADS if one.name in WATCHED):
        with bench.topics(workload) as topic_of_run:
            for peer in (one for one in PEERS if workload.name in one.workloads):
                found = []
                for number in range(rounds):
                    figures: list[dict[str, float]] = [{}] * len(sides)
                    for turn in range(len(sides)):
                        side = (number + turn) % len(sides)  # each is first, second and last in turn
                        with topic_of_run() as topic:
                            measured = bench.measure(peer, workload, topic, sides[side])
                        if measured.faults:
                            raise click.ClickException(f"{peer.name}, {workload.name}: {'; '.join(measured.faults)}")
                        figures[side] = measured.figures
                    found.append(figures)
                verdicts += _verdicts(f"{workload.name} {peer.name}", found)
    return verdicts


def _verdicts(name: str, found: Sequence[Sequence[dict[str, float]]]) -> list[Verdict]:
    """A verdict for each figure that was measured in every run; processor time below a tick of the clock was not."""
    return [
        judged(f"{name} {figure}", direction, [(a[figure], b[figure], tree[figure]) for a, b, tree in found])
        for figure, direction in FIGURES.items()
        if all(side.get(figure) for figures in found for side in figures)
    ]


def _unpack(commit: str, folder: Path) -> None:
    """The worker of a commit; nothing of the repository is touched."""
    command = ["git", "archive", "--format=tar", commit, "worker"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if answer.returncode != 0:
        raise click.ClickException(f"git has no worker of {commit}: {answer.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    main()
