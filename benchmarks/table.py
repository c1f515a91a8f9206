"""Rows as Markdown: what docs/benchmarks.md and the screen show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from benchmarks.peer import Peer
from benchmarks.series import Row
from benchmarks.workload import Kind, Workload

BASE = "raw consume loop"
"""What rates are compared with, in the workload where it runs: the limit in one CPython process."""

COLUMNS: dict[Kind, dict[str, str]] = {
    "drain": {
        "rate": "tasks/s",
        "of_ideal": "of ideal",
        "cpu_us": "CPU us/task",
        "pss": "peak PSS MiB",
        "rss": "peak RSS MiB",
    },
    "paced": {
        "p50": "p50 ms",
        "p99": "p99 ms",
        "cpu_us": "CPU us/task",
        "pss": "peak PSS MiB",
        "rss": "peak RSS MiB",
    },
    "idle": {
        "first_task": "first task after launch, s",
        "idle_cpu": "idle, % of a core",
        "pss": "idle PSS MiB",
        "rss": "idle RSS MiB",
    },
    "kill": {"done_at_kill": "done at the kill", "again": "of those run again, %"},
}
"""Of each kind of workload: figure -> its column."""

ALWAYS = {"missing": "missing", "repeated": "repeated", "lag": "lag"}
"""What every table ends with, before the verdict: the worst of all runs, not the median."""


def tables(rows: Iterable[Row]) -> str:
    """A section for each workload."""
    by_workload = groupby(rows, lambda row: row.workload)
    return "\n".join(_table(workload, list(group)) for workload, group in by_workload)


def _table(workload: Workload, rows: Sequence[Row]) -> str:
    columns = {name: title for name, title in COLUMNS[workload.kind].items() if any(row.values(name) for row in rows)}
    base = next((row.median("rate") for row in rows if row.peer.name == BASE), None)
    compared = [f"of {BASE}"] if base is not None else []
    lines = [_line(["", *columns.values(), *compared, *ALWAYS.values(), "verdict"])]
    lines.append(_line(["---"] * (lines[0].count("|") - 1)))
    for row in rows:
        cells = [f"**{row.peer.name}**" if row.peer.name.startswith("kworker") else row.peer.name]
        cells += [_shown(row, name) for name in columns]
        if base is not None:
            rate = row.median("rate")
            cells.append("-" if rate is None else f"{rate / base:.2f}")
        cells += [_number(row.worst(name)) for name in ALWAYS]
        lines.append(_line([*cells, "; ".join(dict.fromkeys(f"INVALID: {fault}" for fault in row.faults)) or "valid"]))
    return f"### {workload.name}: {workload.title}\n\n" + "\n".join(lines) + "\n"


def _shown(row: Row, figure: str) -> str:
    """The median; with the smallest and the largest when they are more than 5 % apart."""
    values = row.values(figure)
    middle = _number(row.median(figure))
    if not values or max(values) - min(values) <= 0.05 * max(values):
        return middle
    return f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def peers(found: Iterable[tuple[Peer, str]], away: Iterable[tuple[Peer, str]]) -> str:
    """What ran: versions and settings; and what could not, with the reason."""
    lines = [_line(["peer", "versions", "settings"]), _line(["---"] * 3)]
    lines += [_line([peer.name, versions, peer.settings]) for peer, versions in found]
    lines += [_line([peer.name, "not run", " ".join(why.split())]) for peer, why in away]
    return "\n".join(lines) + "\n"
