"""`kworker check` against a real Kafka: it tells everything at once, and changes nothing."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from kit import Broker, Kafka, MakeTopic, create_topic, wait_for
from kit.broker import _free_ports
from kit.secured import AclOperation, ResourceType, allow, sasl_plain
from kworker import cli

NAME, PASSWORD = "worker", "hunter2-of-the-worker"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as exit:
        cli.main(["check", *arguments])
    assert isinstance(exit.value.code, int)
    return exit.value.code, capsys.readouterr().out.splitlines()


def test_all_is_well(kafka: Kafka, topic: MakeTopic, capsys: pytest.CaptureFixture[str]) -> None:
    name = topic(3)
    code, lines = check(capsys, "--bootstrap", kafka.bootstrap, "--group", uuid.uuid4().hex, "--topic", name)
    assert code == 0, lines
    assert f"ok    topic {name}: 3 partitions" in lines
    assert f"ok    topic {name}.dlq: does not exist yet; the worker creates it" in lines
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).topics
    assert f"{name}.dlq" not in topics  # asking made nothing


def test_every_finding_is_told_at_once(kafka: Kafka, topic: MakeTopic, capsys: pytest.CaptureFixture[str]) -> None:
    name, absent = topic(2, {"cleanup.policy": "compact"}), f"absent-{uuid.uuid4().hex}"
    create_topic(kafka.bootstrap, f"{absent}.dlq", 1)
    code, lines = check(
        capsys,
        *("--bootstrap", kafka.bootstrap, "--topic", name, "--topic", absent, "--topic", f"^none-{absent}"),
        *("--group", "g", "--create-topics", "false", "--order", "sideways"),
        *("-X", "enable.auto.commit=true", "-X", "session.timeout.ms=100"),
    )
    assert code == 2
    text = "\n".join(lines)
    for expected in (
        "FAIL  --order: 'sideways' is none of",
        "FAIL  -X enable.auto.commit: true is refused",
        f"warn  topic ^none-{absent}: it matches no topic yet",
        f"warn  topic {absent}: it does not exist",
        f"kafka-topics.sh --bootstrap-server {kafka.bootstrap} --create --topic {absent} --partitions",
        f"warn  topic {name}: it is compacted",
        f"FAIL  dead-letter topic '{name}.dlq' is missing",
        f"--create --topic {name}.dlq --partitions 2",
        "FAIL  session.timeout.ms: 100 is refused by the broker",
    ):
        assert expected in text, expected


def test_a_dead_letter_topic_that_is_too_small_is_told_with_the_command(
    kafka: Kafka, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    name = topic(1, {"max.message.bytes": "2000000"})
    create_topic(kafka.bootstrap, f"{name}.dlq", 1, {"max.message.bytes": "1000000", "cleanup.policy": "compact"})
    code, lines = check(capsys, "--bootstrap", kafka.bootstrap, "--topic", name, "-X", "message.max.bytes=1500000")
    assert code == 0
    (line,) = (line for line in lines if "do not fit" in line)
    command = shlex.split(line.partition("failed: ")[2])
    assert command[0] == "kafka-configs.sh"
    assert command[-1] == f"max.message.bytes={2_000_000 + 65_536}"
    assert f"warn  topic {name}.dlq: it is compacted, which loses dead letters: set cleanup.policy=delete" in lines
    assert [line for line in lines if line.startswith("warn  message.max.bytes: 1500000 is too little")]


def test_a_dead_letter_topic_that_takes_no_writes_fails(
    kafka: Kafka, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    name = topic(1)
    create_topic(kafka.bootstrap, f"{name}.dlq", 1, {"min.insync.replicas": "2"})
    code, lines = check(capsys, "--bootstrap", kafka.bootstrap, "--topic", name)
    assert code == 2
    assert [line for line in lines if line.startswith(f"FAIL  topic {name}.dlq: min.insync.replicas")]


@pytest.mark.parametrize(
    ("conf", "level", "expected"),
    [
        ({"partition.assignment.strategy": "range"}, "FAIL", "its members share by range"),
        ({"partition.assignment.strategy": "cooperative-sticky"}, "ok", "1 members"),
        ({"group.protocol": "consumer"}, "warn", "its members use group.protocol=consumer"),
    ],
)
def test_a_group_whose_members_do_otherwise_is_told(
    conf: dict[str, str], level: str, expected: str, kafka: Kafka, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    name, group = topic(1), uuid.uuid4().hex
    member = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, **conf})
    member.subscribe([name])
    try:
        wait_for(lambda: member.poll(0.1) or member.assignment(), 30, "the member's partitions")
        code, lines = check(capsys, "--bootstrap", kafka.bootstrap, "--topic", name, "--group", group)
    finally:
        member.close()
    assert code == (2 if level == "FAIL" else 0)
    (line,) = (line for line in lines if expected in line)
    assert line.startswith(f"{level:<5} group {group}: ")


def test_a_broker_that_does_not_answer_fails_and_the_rest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(capsys, "--bootstrap", f"127.0.0.1:{_free_ports(1)[0]}", "--group", "g")
    assert code == 2
    (line,) = (line for line in lines if line.startswith("FAIL"))
    assert "Connection refused" in line
    assert [line for line in lines if "plugin" in line]


def test_a_client_that_cannot_be_made_is_told_once(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(
        capsys, "--bootstrap", kafka.bootstrap, "-X", "security.protocol=sasl_plaintext", "-X", "sasl.mechanism=PLAIN"
    )
    assert code == 2
    assert [line for line in lines if line.startswith("FAIL")] == [
        "FAIL  Kafka properties: sasl.username and sasl.password must be set"
    ]


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[Broker, str]]:
    """A broker with a second listener, whose users need a password and permissions; the first one may do all."""
    with sasl_plain(NAME, PASSWORD) as secured:
        yield secured


def sasl(password: Path) -> tuple[str, ...]:
    properties = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": NAME,
        "sasl.password.file": str(password),
    }
    return tuple(word for name, value in properties.items() for word in ("-X", f"{name}={value}"))


def test_permissions_that_are_missing_are_told_with_the_command(
    secured: tuple[Broker, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker, address = secured
    (tmp_path / "pw").write_text(PASSWORD + "\n")
    for name in ("hidden", "seen", "seen.dlq", "good", "good.dlq"):
        create_topic(broker.bootstrap, name, 1)
    for name in ("seen", "seen.dlq"):
        allow(broker, NAME, ResourceType.TOPIC, name, AclOperation.DESCRIBE)
    allow(broker, NAME, ResourceType.TOPIC, "good", AclOperation.READ, AclOperation.DESCRIBE_CONFIGS)
    allow(broker, NAME, ResourceType.TOPIC, "good.dlq", AclOperation.WRITE)
    allow(broker, NAME, ResourceType.GROUP, "mine", AclOperation.READ)
    allow(broker, NAME, ResourceType.GROUP, "theirs", AclOperation.DESCRIBE)
    common = ("--bootstrap", address, *sasl(tmp_path / "pw"))

    code, lines = check(capsys, *common, "--topic", "good", "--group", "mine")
    assert code == 0, lines
    assert "ok    topic good: 1 partitions" in lines

    code, lines = check(capsys, *common, "--topic", "hidden", "--topic", "seen", "--group", "theirs")
    assert code == 2
    text = "\n".join(lines)
    acl = f"kafka-acls.sh --bootstrap-server {address} --command-config client.properties --add"
    for expected in (
        "FAIL  topic hidden: ",
        "FAIL  topic seen: reading it is not allowed: ",
        f"{acl} --allow-principal User:NAME --operation Read --topic seen",
        "FAIL  topic seen.dlq: writing dead letters is not allowed: ",
        f"{acl} --allow-principal User:NAME --operation Write --topic seen.dlq",
        "FAIL  group theirs: joining it is not allowed: ",
        f"{acl} --allow-principal User:NAME --operation Read --group theirs",
    ):
        assert expected in text, expected
    code, lines = check(capsys, *common, "--topic", "good", "--group", "unknown-to-me")
    assert [line for line in lines if line.startswith("FAIL  group unknown-to-me: ")]
    assert PASSWORD not in text


def test_a_wrong_password_is_told_without_showing_it(
    secured: tuple[Broker, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pw").write_text("hunter2-wrong")
    code, lines = check(capsys, "--bootstrap", secured[1], *sasl(tmp_path / "pw"))
    assert code == 2
    (line,) = (line for line in lines if line.startswith("FAIL"))
    assert "Authentication failed" in line
    assert "hunter2" not in line
