"""NOTES.txt of the chart: what a user reads after an install, in each of its branches."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from kit import charttools

pytestmark = pytest.mark.timeout(1200)  # the tools are built once

FROM_NONE = "scaling: {kind: keda, min: 0, timekeeperElsewhere: true}"


def notes(folder: Path, values: str) -> str:
    """What is told; without a cluster helm shows no notes, so here they are part of an object."""
    chart = folder / "kworker"
    shutil.copytree(charttools.CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{- define "notes" -}}}}{text}{{{{- end -}}}}')
    (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | toJson }}')
    answer = charttools.template("-n", "work", "--show-only=templates/notes.yaml", values=values, chart=chart)
    assert answer.returncode == 0, answer.stderr
    found: str = yaml.safe_load(answer.stdout)["notes"]
    return found


@pytest.mark.parametrize("kept", [True, False])
def test_values_of_chart_0_2_that_were_kept_render_and_lacking_alerts_are_told(tmp_path: Path, kept: bool) -> None:
    own = "{enabled: true}"
    rules = "{enabled: true, alerts: null, scope: null, annotations: null, alertLabels: null}" if kept else own
    older = f"monitoring: {{podMonitor: {own}, dashboards: {own}, rules: {rules}}}"
    if kept:
        older += ", defaults: {probes: null, scaling: {timekeeperElsewhere: null}}"
    values = f"{{{older}, workers: {{x: {{}}}}}}"
    made = charttools.template(values=values)
    assert made.returncode == 0, made.stderr
    pods = [one for one in yaml.safe_load_all(made.stdout) if one and one["metadata"]["name"] == "r-kworker-x"]
    (container,) = next(one for one in pods if one["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"]
    limits = {probe: container[f"{probe}Probe"]["failureThreshold"] for probe in ("startup", "liveness", "readiness")}
    assert limits == {"startup": 60, "liveness": 3, "readiness": 2}
    assert ("Upgrade\nwith --reset-then-reuse-values" in notes(tmp_path, values)) == kept


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("kubectl")]


@pytest.mark.parametrize("values", ["{}", "workers: {x: {enabled: false}}"])
def test_without_a_pool_they_say_that_nothing_runs_and_how_to_add_one(tmp_path: Path, values: str) -> None:
    told = notes(tmp_path, values)
    assert told.startswith("No pool of workers is configured, so nothing runs.")
    assert commands(told) == []
    (_, example) = told.split("values:\n", 1)
    assert charttools.template(values=example).returncode == 0
    assert set(yaml.safe_load(example)["workers"]) == {"emails"}


@pytest.mark.parametrize(
    ("values", "pool"),
    [
        ("workers: {x: {}}", "deployment/r-kworker-x"),
        ("workers: {x: {stateful: true}}", "statefulset/r-kworker-x"),
        (f"workers: {{a: {{{FROM_NONE}}}, x: {{scaling: {{kind: hpa}}}}}}", "deployment/r-kworker-x"),
        (f"workers: {{a: {{{FROM_NONE}}}, x: {{scaling: {{kind: keda, min: 1}}}}}}", "deployment/r-kworker-x"),
        ("workers: {a: {replicas: 0}, x: {stateful: true}}", "statefulset/r-kworker-x"),
        ("{fullnameOverride: mine, workers: {x: {}}}", "deployment/mine-x"),
    ],
)
def test_the_next_three_commands_are_for_a_pool_that_keeps_a_pod(tmp_path: Path, values: str, pool: str) -> None:
    told = notes(tmp_path, values)
    assert commands(told) == [
        f"kubectl -n work rollout status {pool}",
        f"kubectl -n work exec {pool} -- kworker check",
        f"kubectl -n work exec {pool} -- kworker lag",
    ]
    assert "No pool keeps a pod" not in told


def test_with_pools_that_may_all_end_they_say_so(tmp_path: Path) -> None:
    told = notes(tmp_path, f"workers: {{x: {{{FROM_NONE}}}, a: {{replicas: 0}}}}")
    assert told.startswith("2 pool(s) of workers: a, x.")
    assert "No pool keeps a pod, so 2 and 3 answer only while one runs." in told
    assert len(commands(told)) == 3
    assert "deployment/r-kworker-a" in commands(told)[0]
