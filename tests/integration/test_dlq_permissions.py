"""What `kworker dlq` must be allowed: what is missing is told on one line, and nothing is half done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import Broker, create_topic, produce, read_all
from kit.deadletters import Original
from kit.secured import AclOperation, ResourceType, allow, sasl_plain
from kworker.cli import main

USER, PASSWORD = "operator", "s3cret"
GROUP = "kworker.dlq.tasks.dlq"


@pytest.fixture
def secured() -> Iterator[tuple[Broker, str]]:
    """A broker with a second listener, whose user may do what a test allows."""
    with sasl_plain(USER, PASSWORD) as secured:
        yield secured


def test_what_is_not_allowed_is_told_on_one_line(
    secured: tuple[Broker, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broker, address = secured
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pw").write_text(PASSWORD)
    for name in ("tasks", "tasks.dlq"):
        create_topic(broker.bootstrap, name)
    produce(broker.bootstrap, "tasks.dlq", [Original("tasks", 0, n).letter() for n in range(3)])

    def said(*arguments: str, code: int) -> str:
        """The one line that the command says."""
        properties = ("security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN", f"sasl.username={USER}")
        security = [word for text in (*properties, "sasl.password.file=pw") for word in ("-X", text)]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["dlq", *arguments, "--bootstrap", address, *security])
        out, err = capfd.readouterr()
        assert ended.value.code == code, out + err
        assert PASSWORD not in out + err
        lines = err.splitlines()
        assert len(lines) == (1 if code else 0), err
        return lines[0] if lines else out

    for verb in ("ls", "replay"):
        assert "Topic authorization failed" in said(verb, "tasks.dlq", code=2)
    allow(broker, USER, ResourceType.TOPIC, "tasks.dlq", AclOperation.READ)
    line = said("ls", "tasks.dlq", code=2)
    assert "Group authorization failed" in line
    assert f"the group {GROUP} is allowed" in line
    assert f"the transactional id {GROUP} is allowed" in said("replay", "tasks.dlq", code=2)
    allow(broker, USER, ResourceType.GROUP, GROUP, AclOperation.READ)
    assert "item 7 is wrong" in said("ls", "tasks.dlq", code=0)
    allow(broker, USER, ResourceType.TRANSACTIONAL_ID, GROUP, AclOperation.WRITE)
    assert "Topic authorization failed" in said("replay", "tasks.dlq", code=2)
    allow(broker, USER, ResourceType.TOPIC, "tasks", AclOperation.DESCRIBE)
    assert "Topic authorization failed" in said("replay", "tasks.dlq", code=2)
    assert read_all(broker.bootstrap, "tasks") == []
    allow(broker, USER, ResourceType.TOPIC, "tasks", AclOperation.WRITE)
    assert said("replay", "tasks.dlq", "--limit", "2", code=0) == "tasks.dlq: 2 letters put back\n"
    assert "that Delete is allowed" in said("purge", "tasks.dlq", "--before", "0s", "--yes", code=2)
    allow(broker, USER, ResourceType.TOPIC, "tasks.dlq", AclOperation.DELETE)
    assert "tasks.dlq: deleted" in said("purge", "tasks.dlq", "--before", "0s", "--yes", code=0)
    assert len(read_all(broker.bootstrap, "tasks")) == 2
