"""`kworker backlog`: the backlog of groups as metrics and JSON, with no worker running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from confluent_kafka import Consumer

from kit import Kafka, create_topic, wait_for
from kit.secured import AclOperation, ResourceType, allow, sasl_plain
from kit.stage import Stage
from kworker import Client
from kworker.kafka.delaylog import WANTED


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> str:
        url = wait_for(lambda: re.search(r"metrics=(http://\S+)/metrics", self._log.read_text()), 20, "its address")
        assert url is not None
        with urllib.request.urlopen(url[1] + path, timeout=10) as answer:
            body: str = answer.read().decode()
            return body

    def group(self, name: str) -> dict[str, Any]:
        found = [one for one in json.loads(self.get("/status"))["groups"] if one["group"] == name]
        return found[0] if found else {}

    def logged(self, words: str) -> int:
        """How often it has said so."""
        return self._log.read_text().count(words)

    def metric(self, name: str) -> dict[str, float]:
        page = self.get("/metrics")
        return {labels: float(value) for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.M)}


@pytest.fixture
def exporter(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Exporter]:
    stage.topic(2, name=f"{stage.group}-in")
    with Exporter(stage, "--group", f"{stage.group}={stage.group}-in") as exporter:
        yield exporter


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


def test_what_is_due_wakes_a_group_that_has_no_worker_also_of_topics_that_appear_later(stage: Stage) -> None:
    group, namespace = stage.group, f"space-{stage.group}"
    first, second = f"{group}-in-a", f"{group}-in-b"
    exporter = Exporter(stage, "--namespace", namespace, "--group", f"{group}=^{group}-in-[a-z]{{1,2}}$")

    def told(name: str = "unfinished") -> object:
        return exporter.group(group).get(name)

    def rows() -> dict[str, tuple[int, int, int]]:
        return {
            row["topic"]: (row["unfinished"], row["due"], row["delayed"]) for row in exporter.group(group)["topics"]
        }

    with exporter, Client(stage.bootstrap, topic=first, namespace=namespace) as client:
        wait_for(lambda: told() == 0, 20, "a reading")
        for id in ("a", "b"):
            client.publish("probe.note", {"n": 1}, id=id, delay="1h")
        client.publish("probe.note", {"n": 2}, topic=f"{namespace}.retry.other", delay="1ms")
        wait_for(lambda: rows() == {first: (0, 0, 2)}, 20, "what is delayed is told, and is no backlog")
        assert 3500 < exporter.group(group)["topics"][0]["next_due"] <= 3600
        assert exporter.group(group)["oldest"] is None
        client.publish("probe.note", {"n": 1}, id="a", delay="1ms")
        wait_for(lambda: rows() == {first: (1, 1, 1)}, 20, "what is due is backlog, though its topic is not there")
        labels = f'group="{group}",topic="{first}"'
        wait_for(lambda: exporter.metric("kworker_backlog_tasks") == {labels: 1.0}, 10, "the metrics")
        assert exporter.metric("kworker_backlog_due_tasks") == {labels: 1.0}
        assert exporter.metric("kworker_backlog_delayed_tasks") == {labels: 1.0}
        oldest = exporter.metric("kworker_backlog_oldest_seconds")[labels]
        wait_for(lambda: exporter.metric("kworker_backlog_oldest_seconds")[labels] > oldest, 10, "it grows older")
        assert told("drain") is None
        stage.topic(name=first)
        stage.topic(name=f"{first}.dlq")
        stage.publish(first, "note", range(10, 15))
        stage.publish(f"{first}.dlq", "note", [99])
        wait_for(lambda: rows() == {first: (6, 1, 1)}, 20, "the topic that was made later")
        worker = stage.start("--namespace", namespace, topics=[f"^{group}-in-[a-z]{{1,2}}$"])
        wait_for(lambda: rows() == {first: (0, 0, 1)}, 40, "the worker handed over and ran what was due")
        assert told("drain") == 0
        stage.wait_noted("ran", [1, *range(10, 15)], worker)
        worker.terminate()
        assert worker.wait() == 0
        stage.topic(name=second)
        stage.publish(second, "note", [20, 21])
        wait_for(lambda: rows() == {first: (0, 0, 1), second: (2, 0, 0)}, 20, "a topic of which nothing is committed")


def test_without_rights_on_the_delay_log_the_topics_are_told_and_that_it_is_missing(tmp_path: Path) -> None:
    user, password = "exporter", "s3cret"
    topic, labels = "tasks", 'group="g",topic="tasks"'
    (tmp_path / "pw").write_text(password)
    kafka = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password.file": str(tmp_path / "pw"),
    }
    with sasl_plain(user, password) as (broker, address):
        create_topic(broker.bootstrap, topic)
        create_topic(broker.bootstrap, "kworker.delayed", 1, WANTED)
        with Client(broker.bootstrap, topic=topic) as client:
            client.publish("probe.note", {"n": 1})
            client.publish("probe.note", {"n": 2}, delay="1ms")
        allow(broker, user, ResourceType.TOPIC, topic, AclOperation.READ)
        allow(broker, user, ResourceType.GROUP, "g", AclOperation.DESCRIBE)
        with (
            Stage(tmp_path, address) as stage,
            Exporter(
                stage, "--group", f"g={topic}", *(f"-X{name}={value}" for name, value in kafka.items())
            ) as exporter,
        ):
            wait_for(lambda: exporter.metric("kworker_backlog_tasks") == {labels: 1.0}, 20, "what is on the topic")
            wait_for(lambda: exporter.metric("kworker_backlog_errors_total")['group="g"'] > 2, 20, "faults are counted")
            (row,) = exporter.group("g")["topics"]
            assert (row["due"], row["delayed"]) == (None, None)
            for name in ("kworker_backlog_due_tasks", "kworker_backlog_delayed_tasks"):
                assert exporter.metric(name) == {}
            assert json.loads(exporter.get("/status"))["ready"] == []
            assert exporter.logged("the delay log cannot be read") == 1
            assert exporter.logged("uthorization") == 1
            allow(broker, user, ResourceType.TOPIC, "kworker.delayed", AclOperation.READ)
            wait_for(lambda: exporter.metric("kworker_backlog_due_tasks") == {labels: 1.0}, 20, "what is due as well")
            assert exporter.metric("kworker_backlog_tasks") == {labels: 2.0}


def test_without_room_for_temporary_files_the_topics_are_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from kworker.config import Config
    from kworker.exporter import Exporter as Unit
    from kworker.timekeeper import following

    def full(**_: object) -> None:
        raise OSError("No space left on device")

    namespace, topic = f"space-{stage.group}", stage.topic()
    stage.topic(name=f"{namespace}.delayed", config=dict(WANTED))
    stage.publish(topic, "note", [1, 2])
    unit = Unit(Config(bootstrap=stage.bootstrap, namespace=namespace), {stage.group: {topic}}, 0.1)

    def told() -> list[tuple[int, int | None]]:
        return [(row.unfinished, row.due) for one in unit.status()["groups"] for row in one.topics]

    with monkeypatch.context() as patch:
        patch.setattr(following, "Cache", full)
        reader = threading.Thread(target=unit.run)
        reader.start()
        try:
            wait_for(lambda: told() == [(2, None)], 20, "the topic without what is due")
            assert unit.ready() == []
            patch.undo()
            wait_for(lambda: told() == [(2, 0)], 20, "all of it")
        finally:
            unit.stop()
            reader.join()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--group: not given"),
        (("--group", "a b"), "--group: 'a b' is not 1 to 249 of the characters"),
        (("--group", "a=^["), "--group: '^[' is not a regular expression: "),
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
