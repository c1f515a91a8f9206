"""`kworker topics` against a real Kafka: what it makes satisfies `kworker check`, and nothing is made twice."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    ConfigResource,
)

from kit import Kafka, create_topic, wait_for
from kworker import cli


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert isinstance(exit.value.code, int)
    told = capsys.readouterr()
    return exit.value.code, (told.out + told.err).splitlines()


def partitions(bootstrap: str) -> dict[str, int]:
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


def settings(bootstrap: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    client = AdminClient({"bootstrap.servers": bootstrap})
    answer = client.describe_configs([resource])[resource]
    return {name: entry.value for name, entry in answer.result(10).items()}


def test_what_it_makes_is_what_check_wants(kafka: Kafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = uuid.uuid4().hex
    large, new, letters = f"large-{key}", f"new-{key}", f"letters-{key}"
    log, retries = f"{key}.delayed", f"{key}.retry.g"
    create_topic(kafka.bootstrap, large, 2, {"max.message.bytes": "5000000"})
    (tmp_path / "kworker.toml").write_text(f'[topics."{new}"]\ndead_letter = "{letters}"\n')
    wanted = ["--bootstrap", kafka.bootstrap, "--namespace", key, "--group", "g", "--topic", large, "--topic", new]

    code, lines = say(capsys, "topics", *wanted, "--partitions", "3", "--replication", "1", "--dry-run")
    assert code == 0
    assert lines[0] == f"ok    topic {large}: it is there, with 2 partitions"
    for line, (name, count) in zip(
        lines[1:], [(new, 3), (f"{large}.dlq", 2), (letters, 3), (log, 4), (retries, 4)], strict=True
    ):
        assert line.startswith("warn ")
        assert f"--create --topic {name} --partitions {count} --replication-factor 1 --config " in line
    assert not partitions(kafka.bootstrap).keys() & {new, f"{large}.dlq", letters, log, retries}

    code, lines = say(capsys, "topics", *wanted, "--partitions", "3")
    assert code == 0, lines
    assert lines[1:] == [f"ok    topic {name}: made" for name in (new, f"{large}.dlq", letters, log, retries)]
    counts = {new: 3, f"{large}.dlq": 2, letters: 3, log: 4, retries: 4}
    wait_for(lambda: counts.items() <= partitions(kafka.bootstrap).items(), 30, "all brokers know the new topics")
    assert settings(kafka.bootstrap, f"{large}.dlq")["max.message.bytes"] == str(5_000_000 + 64 * 1024)
    assert settings(kafka.bootstrap, letters)["retention.ms"] == str(30 * 86_400_000)
    assert settings(kafka.bootstrap, log)["cleanup.policy"] == "compact"

    code, lines = say(capsys, "topics", *wanted, "--partitions", "9")
    assert code == 0, lines
    assert not [line for line in lines if not line.startswith("ok ")]
    assert partitions(kafka.bootstrap)[new] == 3  # what is there is left as it is

    _, lines = say(capsys, "check", *wanted)
    assert not [line for line in lines if key in line and not line.startswith("ok ")]


def test_what_cannot_be_made_is_told_with_the_command(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"absent-{uuid.uuid4().hex}"
    code, lines = say(
        capsys,
        *("topics", "--bootstrap", kafka.bootstrap, "--namespace", name, "--group", "g", "--topic", name),
        *("--replication", "7"),
    )
    assert code == 1
    assert lines[0].startswith(f"FAIL  topic '{name}' could not be created: ")
    assert f"--create --topic {name} --partitions 12 --replication-factor 7" in lines[0]
    assert len(lines) == 3
    assert f"the delay log '{name}.delayed' could not be made" in lines[1]
    assert not [made for made in partitions(kafka.bootstrap) if made.startswith(name)]


def test_a_wrong_delay_log_is_told(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    key = uuid.uuid4().hex
    create_topic(kafka.bootstrap, f"{key}.delayed", 1, {"cleanup.policy": "delete"})
    code, lines = say(
        capsys, "topics", "--bootstrap", kafka.bootstrap, "--namespace", key, "--group", "g", "--topic", key
    )
    assert code == 1
    assert any(line.startswith("FAIL") and "cleanup.policy=delete may lose tasks that wait" in line for line in lines)


def test_a_broker_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = say(capsys, "topics", "--bootstrap", "127.0.0.1:1", "--group", "g")
    assert code == 2
    (line,) = lines
    assert line.startswith("kworker: broker 127.0.0.1:1: ")
    assert "check --bootstrap" in line
