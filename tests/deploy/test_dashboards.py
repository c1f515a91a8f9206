"""The dashboards: what Grafana is given is what the code says, and every expression finds what real workers did.

A worker, one under a supervisor, and a backlog exporter do work of every kind, an outage of the schema registry, a loss
and a refusal among it, while a real Prometheus scrapes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition

from grafana import DASHBOARDS, files
from grafana.panels import COLUMNS
from kit import Kafka, NewRecord, charttools, produce, wait_for
from kit.delays import Delays
from kit.prometheus import Prometheus
from kit.worker_process import WorkerProcess
from kworker import Client
from kworker.metric_table import METRICS, PROCESS_METRICS

PLUGIN = Path(__file__).parent / "shown"
ROOT = Path(__file__).parents[2]
EXPORTER = ROOT / "worker" / "kworker" / "exporter.py"
DEADLINE = 75.0
JSON = [json.loads(text) for text in files().values()]

pytestmark = pytest.mark.timeout(1200)  # Prometheus is built once


class Asked(NamedTuple):
    """One expression of a panel, and what its legend names."""

    place: str
    expr: str
    legend: tuple[str, ...]


def panels(dashboard: Any) -> Iterator[Any]:
    """Those that show something."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


ASKED = [
    Asked(
        f"{dashboard['uid']}: {panel['title']} {target['refId']}",
        target["expr"],
        tuple(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))),
    )
    for dashboard in JSON
    for panel in panels(dashboard)
    for target in panel["targets"]
]


# -- what Grafana is given ----------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_says() -> None:
    for path, text in files().items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: make dashboards"
        assert {path.name for path in path.parent.iterdir()} == {f"{name}.json" for name in DASHBOARDS}


def test_panels_have_numbers_and_places_of_their_own() -> None:
    assert len({dashboard["uid"] for dashboard in JSON}) == len(JSON)
    for dashboard in JSON:
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers)
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= COLUMNS
            taken |= cells


def test_variables_are_declared_and_links_lead_to_a_dashboard() -> None:
    known = {"__rate_interval", "__range"}
    uids = {dashboard["uid"] for dashboard in JSON}
    for dashboard in JSON:
        declared = {variable["name"] for variable in dashboard["templating"]["list"]}
        for panel in panels(dashboard):
            used = {name for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
            assert used <= declared | known, panel["title"]
            for target in re.findall(r"/d/([\w-]+)\?", json.dumps(panel)):
                assert target in uids


def test_dashboards_show_every_metric_and_none_that_there_is_not() -> None:
    backlog = {
        f"{name}_total" if name.endswith("errors") else name
        for name in re.findall(r'"(kworker_backlog_\w+)"', EXPORTER.read_text())
    }
    process = {spec.name for spec in PROCESS_METRICS}
    shown = {name for one in ASKED for name in re.findall(r"\b(?:kworker|process)_\w+", one.expr)}
    shown = {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in shown}
    assert shown <= {*METRICS, *backlog, *process}
    missing = {*METRICS, *backlog} - shown - {"kworker_workers"}  # a supervisor's; the count of admin ports is shown
    assert not missing, "show them in deploy/grafana, then: make dashboards"


def test_the_chart_makes_a_config_map_of_them_that_a_sidecar_finds() -> None:
    values = "{workers: {x: {}}, monitoring: {dashboards: {enabled: true, annotations: {grafana_folder: Work}}}}"
    made = charttools.template("--show-only=templates/dashboards.yaml", values=values)
    assert made.returncode == 0, made.stderr
    (found,) = yaml.safe_load_all(made.stdout)
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Work"}
    assert {name: json.loads(text) for name, text in found["data"].items()} == {
        f"kworker-{path.name}": json.loads(text) for path, text in files().items()
    }
    places = [part for place in charttools.schemas() for part in ("-schema-location", place)]
    answer = charttools.run("kubeconform", "-strict", *places, given=made.stdout)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# -- what a real Prometheus finds ---------------------------------------------------------------------------------


class Scene:
    """Work of every kind, and who watches it."""

    def __init__(self, folder: Path, delays: Delays) -> None:
        self._delays, self._stage = delays, delays.stage
        bootstrap, self.group = delays.bootstrap, self._stage.group
        self.topic, lost = self._stage.topic(2), self._stage.topic()
        self._narrow = self._stage.topic(config={"max.message.bytes": "1000"})
        with Consumer({"bootstrap.servers": bootstrap, "group.id": self.group}) as consumer:
            consumer.commit(offsets=[TopicPartition(lost, 0, 500)], asynchronous=False)
        environ = {"SHOWN_NARROW": self._narrow}
        common = ["--bootstrap", bootstrap, "--namespace", delays.namespace, "--plugin", "shown"]
        common += ["--schema-registry", "http://127.0.0.1:9"]  # nobody is there
        given = [*common, "--group", self.group, "--topic", self.topic, "--topic", lost, "--processes", "1"]
        self.alone = WorkerProcess(folder / "alone", *given, env=environ, site=[PLUGIN])
        given = [*common, "--group", f"{self.group}-2", "--topic", self.topic, "--workers", "2", "--processes", "1"]
        self.supervised = WorkerProcess(folder / "supervised", *given, env=environ, site=[PLUGIN])
        given = ["backlog", "--bootstrap", bootstrap, "--interval", "1s", "--group", f"{self.group}={self.topic}"]
        self.backlog = WorkerProcess(folder / "backlog", *given)
        self.processes = (self.alone, self.supervised, self.backlog)
        self._number = 0

    def work(self) -> None:
        """A little of everything."""
        for worker in self.processes:
            assert worker.exit_code is None, worker.logged()[-3000:]
        self._number += 1
        tasks: dict[str, list[dict[str, str]]] = {
            "shown.work": [*[{"how": "done"}] * 5, {"how": "fail"}, {"how": "hang"}],
            "shown.hang": [{}] if self._number % 5 == 1 else [],
            "shown.publish": [{}] if self._number == 1 else [],
        }
        with Client(self._delays.bootstrap, topic=self.topic, namespace=self._delays.namespace) as client:
            for task, payloads in tasks.items():
                for payload in payloads:
                    client.publish(task, payload)
            client.publish("shown.work", {"how": "done"}, delay="300ms")
            if self._number == 1:
                client.schedules.add("beat", "shown.work", {"how": "done"}, every="1s")
        framed = NewRecord(b"\0\0\0\0\1\0", headers=(("ce_type", b"shown.work"),))
        produce(self._delays.bootstrap, self.topic, [framed] if self._number == 1 else [])

    def lose_a_worker(self) -> None:
        """Kill one of the workers under the supervisor."""
        psutil.Process(self.supervised.status()["workers"][0]["pid"]).kill()

    def close(self) -> None:
        for worker in self.processes:
            worker.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    with Delays(folder, kafka.bootstrap, 2) as delays:
        scene = Scene(folder, delays)
        yield scene
        scene.close()


@pytest.fixture(scope="module")
def prometheus(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    for worker in (scene.alone, scene.supervised):
        worker.wait_ready()
    jobs = {
        "workers": [worker.url.removeprefix("http://") for worker in (scene.alone, scene.supervised)],
        "backlog": [scene.backlog.url.removeprefix("http://")],
    }
    with Prometheus(tmp_path_factory.mktemp("prometheus"), jobs) as prometheus:
        yield prometheus


def concrete(expr: str, scene: Scene) -> str:
    """The expression as Grafana sends it."""
    values = {"__rate_interval": "10s", "__range": "60s", "job": ".*", "task": "shown.work", "group": scene.group}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def test_every_expression_finds_what_workers_did(scene: Scene, prometheus: Prometheus) -> None:
    waiting = list(ASKED)

    def all_found() -> bool:
        scene.work()
        for one in list(waiting):
            found = prometheus.query(concrete(one.expr, scene))
            if found:
                assert all(set(one.legend) <= series.labels.keys() for series in found), one
                waiting.remove(one)
        return not waiting

    scene.work()
    scene.lose_a_worker()
    try:
        wait_for(all_found, DEADLINE, "every expression to find something")
    except AssertionError as error:
        missing = "\n".join(f"{one.place}: {concrete(one.expr, scene)}" for one in waiting)
        raise AssertionError(f"{error}; nothing found by\n{missing}") from None


def test_choices_above_the_dashboards_have_values(scene: Scene, prometheus: Prometheus) -> None:
    choices = {
        re.sub(r"label_values\((.*), (\w+)\)", r"\1 \2", variable["definition"])
        for dashboard in JSON
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    }
    wanted = {
        "job": {"workers", "backlog"},
        "task": {"shown.work", "shown.hang", "shown.publish"},
        "group": {scene.group, f"{scene.group}-2"},
    }
    assert {choice.rpartition(" ")[2] for choice in choices} == wanted.keys()
    for choice in choices:
        series, _, label = choice.rpartition(" ")

        def offered(label: str = label, series: str = series) -> bool:
            return wanted[label] <= set(prometheus.label_values(label, series))

        wait_for(offered, DEADLINE, f"the values of {label}")


def test_promtool_finds_nothing_in_live_pages(scene: Scene, prometheus: Prometheus) -> None:
    for worker in scene.processes:
        page = worker.metrics()
        assert "kworker_" in page
        found = charttools.run("promtool", "check", "metrics", given=page)
        assert found.returncode == 0, found.stdout + found.stderr


def test_an_expression_of_nothing_would_be_found_out(scene: Scene, prometheus: Prometheus) -> None:
    wrong = concrete(ASKED[0].expr.replace("kworker_", "kworkers_"), scene)
    assert prometheus.query(wrong) == []
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(")
