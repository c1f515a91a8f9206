"""Rows as Markdown: what docs/benchmarks.md and the screen show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from benchmarks.goals import Goal
from benchmarks.plan import GAPS, IN_FLIGHT, PARTITIONS, POWERS, SIZES
from benchmarks.series import Row
from benchmarks.store import Results
from benchmarks.workload import Kind, Workload

BASE = "raw consume loop"
"""What rates are compared with, in the workload where it runs: the limit in one CPython process."""

USUAL = "kworker threads"

_MEMORY = {"pss": "peak PSS MiB", "rss": "peak RSS MiB"}
_RATE = {"rate": "tasks/s", "of_ideal": "of ideal", "cpu_us": "CPU us/task"}

COLUMNS: dict[Kind, dict[str, str]] = {
    "drain": _RATE | _MEMORY,
    "paced": {"p50": "p50 ms", "p99": "p99 ms", "cpu_us": "CPU us/task"} | _MEMORY,
    "idle": {
        "first_task": "first task after launch, s",
        "idle_cpu": "idle, % of a core",
        "pss": "idle PSS MiB",
        "rss": "idle RSS MiB",
        "main_rss": "of it the main process",
    },
    "kill": {"done_at_kill": "done at the kill", "again": "of those run again, %"},
    "mixed": _RATE | {f"of_ideal_{kind}": f"{kind}: of ideal" for kind in ("thread", "coroutine", "process")} | _MEMORY,
    "powers": {f"cpu_us_1e{power}": f"CPU us/task up to 10^{power}" for power in POWERS} | _MEMORY,
    "scale": _RATE | {"pss": "PSS of all, MiB"},
    "rebalance": {"steady": "tasks/s, steady", "rate": "tasks/s, coming and going", "of_steady": "of steady"},
    "publish": {
        "rate": "messages/s",
        "cpu_us": "CPU us/message",
        "p50": "alone: p50 ms",
        "p99": "alone: p99 ms",
    },
    "delays": {"rate": "tasks/s", "late_p50": "late: p50 s", "late_p99": "late: p99 s", "cpu_us": "CPU us/task"}
    | _MEMORY,
    "bomb": {"inflated": "inflated MiB", "peak": "peak RSS MiB", "rss": "RSS after it, MiB"},
    "slope": {
        "start": "own memory after a minute, MiB",
        "slope": "growth, MiB an hour",
        "day": "after 24 h at that, MiB",
        "rss": "RSS at the end, MiB",
    },
    "told": {"help": "s"},
}
"""Of each kind of workload: figure -> its column. What a program told of itself has a table of its own: `cost`."""

ALWAYS = {"missing": "missing", "repeated": "repeated", "lag": "lag"}
"""What every table ends with, before the verdict: the worst of all runs, not the median."""


def tables(rows: Iterable[Row]) -> str:
    """A section for each workload."""
    by_workload = groupby((row for row in rows if row.workload.name != "PIECES"), lambda row: row.workload)
    return "\n".join(_table(workload, list(group)) for workload, group in by_workload)


def _table(workload: Workload, rows: Sequence[Row]) -> str:
    columns = {name: title for name, title in COLUMNS[workload.kind].items() if any(row.values(name) for row in rows)}
    base = next((row.median("rate") for row in rows if row.peer == BASE), None)
    compared = [f"of {BASE}"] if base is not None else []
    always = {name: title for name, title in ALWAYS.items() if any(row.values(name) for row in rows)}
    lines = _head(["", *columns.values(), *compared, *always.values(), "verdict"])
    for row in rows:
        cells = [f"**{row.peer}**" if row.peer.startswith("kworker") else row.peer]
        cells += [_shown(row, name) for name in columns]
        if base is not None:
            cells.append(_number(_by(row.median("rate"), base)))
        cells += [_number(row.worst(name)) for name in always]
        lines.append(_line([*cells, "; ".join(dict.fromkeys(f"INVALID: {fault}" for fault in row.faults)) or "valid"]))
    return f"### {workload.name}: {workload.title}\n\n" + "\n".join(lines) + "\n"


def goals(wanted: Iterable[Goal], runs: Mapping[str, Results]) -> str:
    """A line for each goal; of several runs, each has its value and its verdict."""
    lines = _head(["", "goal", "wanted", *(word for name in runs for word in (name, "verdict"))])
    for goal in wanted:
        cells = [goal.workload, goal.what, goal.wanted]
        for results in runs.values():
            cells += [_number(goal.value(results)), goal.verdict(results)]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def memory(results: Results) -> str:
    """What the usual worker holds, in one table; empty when none of it was measured."""
    places = (
        ("idle, 256 partitions", "W10", "main_rss"),
        ("W1", "W1", "rss"),
        ("payloads of 1 MiB", "W8-size-1MiB", "rss"),
        ("a batch bomb: peak", "MEM-bomb", "peak"),
        ("a batch bomb: after it", "MEM-bomb", "rss"),
        ("a steady rate: own memory after a minute", "MEM-slope", "start"),
        ("the same, growth an hour", "MEM-slope", "slope"),
        ("the same, after 24 h at that", "MEM-slope", "day"),
    )
    found = [(title, results.median(workload, USUAL, figure)) for title, workload, figure in places]
    if all(value is None for _, value in found):
        return ""
    lines = [_line([title, _number(value)]) for title, value in found if value is not None]
    return "### Memory of one worker\n\n" + "\n".join([*_head(["RSS", "MiB"]), *lines]) + "\n"


def cost(results: Results) -> str:
    """What each feature costs: by an option, in a whole worker; or alone, in a process of its own."""
    lines = _head(["feature", "us of CPU a task", "against the worker as it comes"])
    for name in ("COST", "COST-log"):
        usual = results.median(name, USUAL, "cpu_us")
        for row in (row for row in results.rows if row.workload.name == name):
            own = results.median(name, row.peer, "cpu_us")
            change = "-" if own is None or usual is None or row.peer == USUAL else f"{own - usual:+.2f}"
            lines.append(_line([f"{row.peer}{' (a line a task)' * (name == 'COST-log')}", _number(own), change]))
    pieces = results.row("PIECES", "pieces")
    if pieces and pieces.measured:
        figures = pieces.measured[0].figures
        lines += [_line([f"alone: {name}", _number(pieces.median(name)), ""]) for name in figures]
    return "### What features cost\n\n" + "\n".join(lines) + "\n" if len(lines) > 2 else ""


def growth(results: Results) -> dict[str, list[tuple[str, float]]]:
    """Dimension -> its points: what a task costs by the median of them. Only what was measured."""
    dimensions = {
        "partitions": (USUAL, [f"{n}" for n in PARTITIONS]),
        "gap": (USUAL, [f"{n}" for n in GAPS]),
        "slots": ("kworker coroutines", [f"{n}" for n in IN_FLIGHT]),
        "size": (USUAL, list(SIZES)),
    }
    found = {}
    for dimension, (peer, points) in dimensions.items():
        costs = [(point, results.median(f"W8-{dimension}-{point}", peer, "cpu_us")) for point in points]
        found[dimension] = [(point, cost) for point, cost in costs if cost]
    row = results.row("W8-tasks", USUAL)
    costs = [(f"10^{power}", row.median(f"cpu_us_1e{power}") if row else None) for power in POWERS]
    found["tasks"] = [(point, cost) for point, cost in costs if cost]
    return {dimension: by_middle for dimension, points in found.items() if (by_middle := _by_middle(points))}


def _by_middle(points: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(point, cost / points[len(points) // 2][1]) for point, cost in points]


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


def _by(value: float | None, base: float) -> float | None:
    return None if value is None else value / base


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---"] * len(titles))]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def peers(found: Mapping[str, tuple[str, str]], away: Mapping[str, str]) -> str:
    """What ran: versions and settings; and what could not, with the reason."""
    lines = _head(["peer", "versions", "settings"])
    lines += [_line([name, *about]) for name, about in found.items()]
    lines += [_line([name, "not run", " ".join(why.split())]) for name, why in away.items()]
    return "\n".join(lines) + "\n"
