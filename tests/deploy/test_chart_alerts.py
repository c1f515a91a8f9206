"""The chart's alerts: when they fire and when not, what the values say of them, and that each has its page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown.extensions.toc import slugify  # type: ignore[import-untyped]  # it has no types

from kit import charttools
from kworker.metric_table import METRICS, PROCESS_METRICS

CASES = Path(__file__).parent / "chart" / "alerts_test.yaml"
SOURCE = charttools.CHART / "files" / "alerts.yaml"
RUNBOOK = charttools.ROOT / "docs" / "runbook.md"
EXPORTER = charttools.ROOT / "worker" / "kworker" / "exporter.py"
SERIES = r"\b(?:kworker|process|kube)_\w+"
EVERYWHERE = {"scope": "", "runbook": "RUNBOOK"}

pytestmark = pytest.mark.timeout(1200)  # the tools are built once


def rendered(*arguments: str, **rules: Any) -> dict[str, Any]:
    """The spec of the PrometheusRule, with these values of `monitoring.rules`."""
    values = yaml.safe_dump({"workers": {"x": {}}, "monitoring": {"rules": {"enabled": True, **rules}}})
    made = charttools.template("--show-only=templates/monitoring.yaml", *arguments, values=values)
    assert made.returncode == 0, made.stderr
    spec: dict[str, Any] = yaml.safe_load(made.stdout)["spec"]
    return spec


def alerts(*arguments: str, **rules: Any) -> dict[str, Any]:
    """The alerts by name."""
    (group,) = rendered(*arguments, **rules)["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def promtool(folder: Path, spec: dict[str, Any]) -> str:
    """What promtool says of the cases with these rules; empty when all hold."""
    (folder / "alerts.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(CASES, folder)
    checked = charttools.run("promtool", "check", "rules", folder / "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = charttools.run("promtool", "test", "rules", folder / CASES.name)
    return "" if tested.returncode == 0 else tested.stdout + tested.stderr


def test_alerts_fire_when_they_should_and_not_when_they_should_not(tmp_path: Path) -> None:
    assert promtool(tmp_path, rendered(**EVERYWHERE)) == ""


def test_every_alert_is_seen_to_fire_and_not_to_fire_on_series_that_are_there() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    told = [one for case in cases for one in case["alert_rule_test"]]
    names = set(alerts())
    assert {one["alertname"] for one in told if one["exp_alerts"]} == names
    calm = cases[-1]
    assert {one["alertname"] for one in calm["alert_rule_test"] if not one["exp_alerts"]} == names
    given = {re.match(r"\w+", one["series"])[0] for one in calm["input_series"]}  # type: ignore[index]  # they begin so
    assert given == asked()


def asked() -> set[str]:
    """The series that the alerts ask for."""
    return {name for rule in alerts().values() for name in re.findall(SERIES, rule["expr"])}


def test_the_series_are_those_of_workers_of_the_exporter_and_of_kube_state_metrics() -> None:
    exported = set(re.findall(r'"(kworker_backlog_\w+)"', EXPORTER.read_text("utf-8")))
    known = {*METRICS, *exported, *(metric.name for metric in PROCESS_METRICS)}
    known |= {f"{name}{part}" for name in known for part in ("_count", "_bucket", "_total")}
    assert {name for name in asked() - known if not name.startswith("kube_pod_")} == set()


JOINS = ("NothingFinishes", "SlotsHeld", "TasksHang", "CommitsStalled", "DeadLetters", "RetryStorm", "PodNotReady")


def test_the_cases_see_namespaces_that_are_mixed_up(tmp_path: Path) -> None:
    spec = rendered(**EVERYWHERE)
    for rule in spec["groups"][0]["rules"]:
        rule["expr"] = re.sub(r"\(namespace, ", "(", rule["expr"])
    said = promtool(tmp_path, spec)
    assert [name for name in JOINS if f"alertname: Kworker{name}" not in said] == []


def test_every_series_is_looked_for_in_the_namespace_of_the_release() -> None:
    for name, rule in alerts("-n", "work").items():
        series = re.findall(rf"{SERIES}(.*?[}}]|)", rule["expr"])
        assert series, name
        assert [one for one in series if not re.fullmatch(r'\{.*namespace="work"\}', one)] == []
    pods = alerts("-n", "work", "--set=fullnameOverride=mine")["KworkerPodNotReady"]["expr"]
    assert 'pod=~"mine-.+"' in pods
    assert {rule["alert"] for rule in rendered(scope='cluster="c"')["groups"][0]["rules"]} == set(alerts())
    assert 'kworker_backlog_tasks{cluster="c"}' in alerts(scope='cluster="c"')["KworkerBacklogGrows"]["expr"]


def test_each_alert_is_as_the_values_say() -> None:
    defaults = yaml.safe_load((charttools.CHART / "values.yaml").read_text())["monitoring"]["rules"]["alerts"]
    made = alerts()
    assert list(made) == list(defaults)
    for name, given in defaults.items():
        assert (made[name]["for"], made[name]["labels"]) == (given["for"], {"severity": given["severity"]})
    said = {
        "KworkerBacklogGrows": {"for": "1h", "severity": "page", "threshold": 2500000, "labels": {"who": "me"}},
        "KworkerSlotsSaturated": {"threshold": 0.5},
        "KworkerDeadLetters": {"enabled": False},
    }
    changed = alerts(alerts=said, alertLabels={"team": "t", "who": "all"})
    assert set(made) - set(changed) == {"KworkerDeadLetters"}
    grows = changed["KworkerBacklogGrows"]
    assert (grows["for"], grows["labels"]) == ("1h", {"severity": "page", "team": "t", "who": "me"})
    assert "> 2500000\n" in grows["expr"]
    assert "> 0.5\n" in changed["KworkerSlotsSaturated"]["expr"]
    assert changed["KworkerSlotsSaturated"]["labels"] == {"severity": "info", "team": "t", "who": "all"}
    assert changed["KworkerRecordsLost"]["expr"] == made["KworkerRecordsLost"]["expr"]


def test_no_word_of_the_source_is_left_in_an_expression_and_thresholds_are_where_the_values_have_them() -> None:
    defaults = yaml.safe_load((charttools.CHART / "values.yaml").read_text())["monitoring"]["rules"]["alerts"]
    (group,) = yaml.safe_load(SOURCE.read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"] if "THRESHOLD" in rule["expr"]} == {
        name for name, given in defaults.items() if "threshold" in given
    }
    for rule in alerts().values():
        assert not re.search(r"THRESHOLD|SCOPE|PODS", rule["expr"])


def test_an_alert_links_to_a_heading_of_the_runbook_and_to_nothing_without_an_address() -> None:
    anchors = {slugify(title, "-") for title in re.findall(r"^## (.+)$", RUNBOOK.read_text("utf-8"), re.M)}
    linked = alerts(runbook="https://wiki.example.org/kworker")
    links = [rule["annotations"]["runbook_url"].split("#") for rule in linked.values()]
    assert {page for page, _ in links} == {"https://wiki.example.org/kworker"}
    assert {anchor for _, anchor in links} == anchors
    assert [name for name, rule in alerts(runbook="").items() if "runbook_url" in rule["annotations"]] == []
