"""`kworker backlog`: the backlog of groups as metrics and JSON, with no worker running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from kit import Kafka, wait_for
from kit.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, kafka: Kafka) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


class Exporter:
    """The command, in a process of its own."""

    def __init__(self, stage: Stage, *arguments: str) -> None:
        self._log = stage.folder / "exporter.log"
        command = [sys.executable, "-m", "kworker", "backlog", "--interval", "1s", "--admin-port", "0"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--bootstrap", stage.bootstrap, *arguments],
                stderr=log,
                cwd=stage.folder,
                env=os.environ | {"KWORKER_LOG_LEVEL": "info"},
            )

    def get(self, path: str) -> str:
        url = wait_for(lambda: re.search(r"metrics=(http://\S+)/metrics", self._log.read_text()), 20, "its address")
        assert url is not None
        with urllib.request.urlopen(url[1] + path, timeout=10) as answer:
            body: str = answer.read().decode()
            return body

    def group(self, name: str) -> dict[str, Any]:
        found = [one for one in json.loads(self.get("/status"))["groups"] if one["group"] == name]
        return found[0] if found else {}

    def metric(self, name: str) -> dict[str, float]:
        page = self.get("/metrics")
        return {labels: float(value) for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.M)}


@pytest.fixture
def exporter(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Exporter]:
    stage.topic(2, name=f"{stage.group}-in")
    exporter = Exporter(stage, "--group", f"{stage.group}={stage.group}-in")
    yield exporter
    exporter.process.kill()
    exporter.process.wait()


def test_it_tells_what_is_left_before_while_and_after_a_worker_runs(stage: Stage, exporter: Exporter) -> None:
    group, topic = stage.group, f"{stage.group}-in"
    stage.publish(topic, "hold", [0], 0)
    stage.publish(topic, "note", range(1, 31), 0)
    stage.publish(topic, "note", range(31, 51), 1)
    wait_for(lambda: exporter.group(group).get("unfinished") == 51, 20, "what was published")
    before = exporter.group(group)
    assert [(row["topic"], row["unfinished"]) for row in before["topics"]] == [(topic, 51)]
    assert before["oldest"] >= 0
    assert before["drain"] is None
    worker = stage.start(topics=[topic])
    wait_for(lambda: exporter.group(group).get("unfinished") == 1, 20, "all but the head")
    labels = f'group="{group}",topic="{topic}"'
    wait_for(lambda: exporter.metric("kworker_backlog_tasks") == {labels: 1.0}, 10, "the metric")
    assert exporter.metric("kworker_backlog_oldest_seconds")[labels] > 0
    stage.let_go()
    wait_for(lambda: exporter.group(group).get("unfinished") == 0, 20, "nothing left")
    assert exporter.group(group)["oldest"] is None
    assert exporter.group(group)["drain"] == 0
    assert json.loads(exporter.get("/status"))["ready"] == []
    worker.terminate()
    assert worker.wait() == 0
    exporter.process.send_signal(signal.SIGTERM)
    assert exporter.process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--group: not given"),
        (("--group", "a b"), "--group: 'a b' is not 1 to 249 of the characters"),
        (("--group", "a", "--interval", "0s"), "--interval: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments: tuple[str, ...], why: str) -> None:
    command = [sys.executable, "-m", "kworker", "backlog", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"kworker: {why}")


def test_numbers_that_are_too_old_are_not_told(stage: Stage) -> None:
    from kworker.config import Config
    from kworker.exporter import Exporter as Unit

    unit = Unit(Config(bootstrap="127.0.0.1:1"), {"g": {"t"}}, 1.0)
    assert unit.ready() == ["group g: no reading of its backlog of late"]
    assert unit.status() == {"unfinished": 0, "groups": [], "ready": unit.ready()}


def test_one_client_reads_all_groups_again_and_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from kworker.kafka import backlogs as module

    made: list[Consumer] = []

    def make(settings: dict[str, Any]) -> Consumer:
        made.append(Consumer(settings))
        return made[-1]

    monkeypatch.setattr(module, "Consumer", make)
    place = {"bootstrap.servers": stage.bootstrap}
    unit = module.Backlogs(place, {**place, "group.id": "kworker-backlog"})
    topics = [stage.topic(2), stage.topic(1)]
    for number, topic in enumerate(topics):
        stage.publish(topic, "note", range(number + 1), 0)
    for number in (1, 2):
        for group, topic in zip((f"{stage.group}-a", f"{stage.group}-b"), topics, strict=True):
            found = unit.read(group, lambda name, topic=topic: name == topic)  # type: ignore[misc]  # of this turn
            assert [one.place for one in found if one.unfinished] == [(topic, 0)]
            assert list(unit.oldest(found)) == [(topic, 0)]
            assert sum(unit.exact(found).values()) == number + topics.index(topic)
        for topic in topics:
            stage.publish(topic, "note", [9], 0)
    unit.close()
    assert len(made) == 1
