"""`kworker publish --wait`: the result on standard output, or an exit code 1 and one line that says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kit import Kafka, end_offsets
from kit.service import Service
from kit.stage import Stage
from kworker.cli import main


class Said(NamedTuple):
    code: int
    out: bytes
    err: str


@pytest.fixture(scope="module")
def service(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Stage(tmp_path_factory.mktemp("wait"), kafka.bootstrap) as stage:
        yield Service(stage)


@pytest.fixture
def publish(
    service: Service, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Said]:
    """Runs the command in an empty directory; the topic of tasks is given, that for replies is not."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(["publish", "--bootstrap", service.stage.bootstrap, "--topic", service.tasks, *arguments])
        out, err = capfdbinary.readouterr()
        # A client of an earlier test, whose broker is gone, may write here as well.
        own = service.stage.bootstrap
        lines = [line for line in err.decode().splitlines(keepends=True) if not line.startswith("%3|") or own in line]
        return Said(int(ended.value.code or 0), out, "".join(lines))

    return run


Publish = Callable[..., Said]


def test_the_result_is_printed(service: Service, publish: Publish) -> None:
    reply = ("--reply-topic", service.replies, "--wait")
    assert publish("answers.double", '{"n": 2}', *reply) == Said(0, b'{"n": 2, "double": 4}\n', "")
    assert publish("answers.echo", '{"text": "ü"}', "--key", "k", *reply, "60s") == Said(0, '["ü", "k"]\n'.encode(), "")
    assert publish("answers.nothing", *reply) == Said(0, b"null\n", "")
    said = publish("answers.double", '{"n": 2}', "--json", *reply)
    assert json.loads(said.out) == {"task": "answers.double", "result": {"n": 2, "double": 4}}


def test_bytes_are_printed_as_they_are(service: Service, publish: Publish) -> None:
    raw = ("answers.raw", "--reply-topic", service.replies, "--wait")
    assert publish(*raw).out == b"\x00\xff{"
    assert json.loads(publish("--json", *raw).out)["result_base64"] == "AP97"


def test_the_configuration_names_the_topics(service: Service, publish: Publish) -> None:
    Path("kworker.toml").write_text(f'reply_topic = ["{service.replies}"]\n')
    assert publish("answers.double", '{"n": 3}', "--wait").out == b'{"n": 3, "double": 6}\n'
    Path("kworker.toml").write_text(f'[topics."{service.tasks}"]\ndead_letter = "elsewhere"\n')
    said = publish("answers.refuse", '{"why": "no"}', "--reply-topic", service.replies, "--wait", "1s")
    assert (said.code, said.out) == (1, b"")
    assert "has no result within 1 s" in said.err


def test_a_failure_and_no_answer_end_with_1_and_one_line(service: Service, publish: Publish) -> None:
    reply = ("--reply-topic", service.replies, "--wait")
    failed = publish("answers.refuse", '{"why": "no such account"}', *reply)
    line = (
        f"kworker: 'answers.refuse' failed for good, rejected (Reject): no such account; it is in {service.tasks}.dlq"
    )
    assert failed == Said(1, b"", f"{line}\n")
    late = publish("answers.held", json.dumps({"file": str(Path.cwd() / "file")}), *reply, "500ms")
    Path("file").touch()
    assert (late.code, late.out) == (1, b"")
    place = rf"{service.tasks}/\d/\d+"
    assert re.fullmatch(
        rf"kworker: 'answers.held' has no result within 0.5 s: it is at {place}, and may still run; is there a worker, "
        rf"and does it allow --reply-topic {service.replies}\?\n",
        late.err,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wait"], "--wait needs one topic that the result comes back on"),
        (["--wait", "--reply-topic", "r", "--file", "-"], "--wait is for one message"),
        (["--reply-topic", "r", "--wait", '{"n": 1}'], "write --wait=DURATION, or --wait last"),
        (["--reply-topic", "r", "--header", "ce_replyto=x", "--wait"], "give reply_to="),
        (["--reply-topic", "r", "--id", "x" * 257, "--wait"], "its id is longer than 256 bytes"),
    ],
)
def test_what_is_wrong_with_the_usage_is_said_and_ends_with_2(
    service: Service, publish: Publish, arguments: list[str], said: str
) -> None:
    before = end_offsets(service.stage.bootstrap, service.tasks)
    code, out, err = publish("answers.double", *arguments)
    assert (code, out) == (2, b"")
    assert said in err
    assert "Traceback" not in err
    assert end_offsets(service.stage.bootstrap, service.tasks) == before
