"""What schedules must be allowed: a worker without it works, says so, and applies its schedules once it is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import Broker, create_topic
from kit.secured import AclOperation, ResourceType, allow, sasl_plain
from kit.stage import Stage
from kworker import Client
from kworker.cli import main
from kworker.core.delayed import log_of
from kworker.kafka.delaylog import WANTED

USER, PASSWORD = "worker", "s3cret"
LOG = log_of("kworker")


@pytest.fixture
def secured() -> Iterator[tuple[Broker, str]]:
    """A broker with a second listener, whose user may do what a test allows."""
    with sasl_plain(USER, PASSWORD) as secured:
        yield secured


def test_a_worker_that_may_not_apply_its_schedules_works_and_tries_again(
    secured: tuple[Broker, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broker, address = secured
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pw").write_text(PASSWORD)
    for name in ("tasks", "tasks.dlq", LOG):
        create_topic(broker.bootstrap, name, 1, WANTED if name == LOG else None)
    kafka = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password.file": str(tmp_path / "pw"),
    }

    def said(*arguments: str, code: int) -> str:
        """What `kworker schedule` says, on one line."""
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "schedule",
                    *arguments,
                    "--bootstrap",
                    address,
                    *(f"-X{name}={value}" for name, value in kafka.items()),
                ]
            )
        out, err = capfd.readouterr()
        assert ended.value.code == code, out + err
        assert PASSWORD not in out + err
        # librdkafka tells of clients of other tests, whose broker is gone, on the same standard error.
        (line,) = [line for line in (err if code else out).splitlines() if not line.startswith("%")]
        return line

    (tmp_path / "kworker.toml").write_text('[schedules.a]\ncron = "0 3 1 1 *"\ntask = "probe.note"\n[plugins.probe]\n')
    with Stage(tmp_path, broker.bootstrap) as stage:
        for name, operation in (("tasks", AclOperation.READ), ("tasks.dlq", AclOperation.WRITE)):
            allow(broker, USER, ResourceType.TOPIC, name, operation)
        allow(broker, USER, ResourceType.GROUP, stage.group, AclOperation.READ)
        config = ("--config", str(tmp_path / "kworker.toml"))
        worker = stage.start("--bootstrap", address, *config, topics=["tasks"], kafka=kafka)
        worker.wait_ready()
        stage.publish("tasks", "note", [1])
        stage.wait_noted("ran", [1], worker)
        told = "the schedules could not be applied, it is tried again: "
        stage.wait(lambda: told in worker.logged(), "the fault is told", worker)
        assert "the delay log 'kworker.delayed' cannot be used: Broker: Topic authorization failed" in said(
            "ls", code=1
        )
        allow(broker, USER, ResourceType.TOPIC, LOG, AclOperation.READ)
        assert said("ls", code=0) == "no schedules"  # the group of its reader need not be allowed
        assert "Topic authorization failed" in said("add", "b", "--every", "1h", "--task", "t", "--topic", "t", code=1)
        allow(broker, USER, ResourceType.TOPIC, LOG, AclOperation.WRITE)
        assert said("add", "b", "--every", "1h", "--task", "t", "--topic", "t", code=0).startswith("b: added; next run")
        allow(broker, USER, ResourceType.TRANSACTIONAL_ID, f"{LOG}-schedules", AclOperation.WRITE)
        with Client(broker.bootstrap) as client:
            stage.wait(lambda: len(client.schedules.ls()) == 2, "the worker has applied it", worker)
