"""Pictures of results, as SVG: the first run as bars or lines, each other run as dots beside it, so that noise shows.

Drawn by matplotlib, of the dependency group `bench`: `make bench` installs it, nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.store import Results
from benchmarks.table import growth

OURS, THEIRS, OTHER_RUN = "#2a6fb0", "#a8b3bd", "#c0392b"
_SETTINGS = {"svg.hashsalt": "kworker", "svg.fonttype": "none", "font.size": 9, "figure.constrained_layout.use": True}

Runs = Mapping[str, Results]
Figure = Any  # of matplotlib, which may not be installed where types are checked


def written(runs: Runs, folder: Path) -> list[str]:
    """Draw what was measured into `folder`; the names of the files. A picture without a number is not drawn."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(_SETTINGS)
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Runs], Figure | None]] = {
        "tasks-a-second.svg": lambda given: _bars(given, "rate", ["W1"], "no-op tasks a second", log=True),
        "part-of-ideal.svg": lambda given: _bars(given, "of_ideal", ["W2-64", "W2-256", "W3", "W4"], "part of ideal"),
        "latency.svg": lambda given: _bars(given, "p99", ["W5"], "publish to done, p99 ms", log=True),
        "processor-time.svg": lambda given: _bars(given, "cpu_us", ["W1", "W2-64"], "us of CPU a task", log=True),
        "growth.svg": _growth,
    }
    names = []
    for name, draw in pictures.items():
        figure = draw(runs)
        (folder / name).unlink(missing_ok=True)
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None})
            names.append(name)
    return names


def _bars(runs: Runs, figure: str, workloads: list[str], title: str, *, log: bool = False) -> Figure | None:
    """A panel for each workload, a bar for each peer, the best on top."""
    from matplotlib.figure import Figure as Canvas

    first, *others = runs.values()
    panels = []
    for name in workloads:
        rows = [(row.peer, value) for row in first.rows if row.workload.name == name and (value := row.median(figure))]
        if rows:
            panels.append((name, sorted(rows, key=lambda row: row[1], reverse=figure in ("p99", "cpu_us"))))
    if not panels:
        return None
    heights = [len(rows) for _, rows in panels]
    canvas = Canvas(figsize=(8, 0.3 * sum(heights) + 0.7 * len(panels)))
    axes = canvas.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, (name, rows) in zip(axes[:, 0], panels, strict=True):
        colours = [OURS if peer.startswith("kworker") else THEIRS for peer, _ in rows]
        bars = axis.barh([peer for peer, _ in rows], [value for _, value in rows], color=colours)
        axis.bar_label(bars, [_short(value) for _, value in rows], padding=4)
        for results in others:
            again = [(peer, value) for peer, _ in rows if (value := results.median(name, peer, figure))]
            axis.plot([value for _, value in again], [peer for peer, _ in again], ".", color=OTHER_RUN)
        axis.set_title(f"{name}: {title}", loc="left")
        if log:
            axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    return canvas


def _growth(runs: Runs) -> Figure | None:
    """Cost of a task by the middle of each dimension; the goal is the band."""
    from matplotlib.figure import Figure as Canvas

    first, *others = (growth(results) for results in runs.values())
    if not first:
        return None
    canvas = Canvas(figsize=(8, 2.2 * len(first)))
    axes = canvas.subplots(len(first), 1, squeeze=False)
    for axis, (dimension, points) in zip(axes[:, 0], first.items(), strict=True):
        axis.axhspan(0.9, 1.1, color=THEIRS, alpha=0.3)
        axis.plot(*zip(*points, strict=True), "o-", color=OURS)
        for other in others:
            if dimension in other:
                axis.plot(*zip(*other[dimension], strict=True), ".", color=OTHER_RUN)
        axis.set_title(f"{_TITLES[dimension]}: cost of a task by that of the middle", loc="left")
        if dimension == "size":  # a longer payload costs more, as it must
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    return canvas


_TITLES = {
    "partitions": "partitions",
    "gap": "finished offsets above those of stuck tasks",
    "slots": "tasks in flight",
    "size": "bytes of a payload",
    "tasks": "tasks so far",
}


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
