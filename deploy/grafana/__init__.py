"""The dashboards of kworker, and the files that Grafana imports: in the chart, which makes a config map of them.

Every expression is evaluated in the tests by a Prometheus that scrapes real workers (tests/deploy/test_dashboards.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana import later, one_group, one_task, overview
from grafana.panels import render

FOLDER = Path(__file__).parents[1] / "helm" / "kworker" / "files" / "dashboards"

DASHBOARDS = {
    "overview": overview.DASHBOARD,
    "task": one_task.DASHBOARD,
    "group": one_group.DASHBOARD,
    "later": later.DASHBOARD,
}
"""All of them, by the name of their file."""


def files() -> dict[Path, str]:
    """Every file, and what is to be in it."""
    return {FOLDER / f"{name}.json": json.dumps(render(one), indent=1) + "\n" for name, one in DASHBOARDS.items()}
