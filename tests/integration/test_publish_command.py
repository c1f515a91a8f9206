"""`kworker publish`: what it sends, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kit import Kafka, MakeTopic, read_all, wait_for
from kworker.cli import main
from kworker.cli.publish import CHUNK


class Said(NamedTuple):
    code: int
    out: list[str]
    err: str


Publish = Callable[..., Said]


@pytest.fixture
def publish(
    kafka: Kafka, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Publish:
    """Runs the command in an empty directory, with `stdin` as its standard input."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"", bootstrap: str = kafka.bootstrap) -> Said:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main(["publish", "--bootstrap", bootstrap, *arguments])
        out, err = capfd.readouterr()
        # A client of an earlier test, whose broker is gone, may write here as well.
        own = [line for line in err.splitlines(keepends=True) if not line.startswith("%3|") or bootstrap in line]
        return Said(int(ended.value.code or 0), out.splitlines(), "".join(own))

    return run


def values(kafka: Kafka, topic: str) -> list[bytes | None]:
    return [message.value() for message in read_all(kafka.bootstrap, topic)]


def test_a_message_is_published_and_its_place_printed(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    said = publish("thumbnail", '{ "path": "a=b" }', "--topic", name, "--key", "k", "--id", "i1", "--header", "a=b=c")
    assert said == Said(0, [f"{name}/0/0"], "")
    (message,) = read_all(kafka.bootstrap, name)
    assert (message.key(), message.value()) == (b"k", b'{ "path": "a=b" }')
    headers = dict(message.headers() or [])
    assert (headers["ce_type"], headers["ce_id"], headers["a"]) == (b"thumbnail", b"i1", b"b=c")
    assert headers["content-type"] == b"application/json"


def test_json_output_tells_more(topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    (line,) = publish("t", "1", "--topic", name, "--id", "i1", "--json").out
    assert json.loads(line) == {"task": "t", "topic": name, "partition": 0, "offset": 0, "id": "i1"}


@pytest.mark.parametrize(
    ("payload", "stdin", "value"),
    [([], b"", None), (["-"], b'{"a": 1}\n', b'{"a": 1}\n'), (["@file.json"], b"", b"[1]"), (["--", "-5"], b"", b"-5")],
)
def test_where_a_payload_comes_from(
    kafka: Kafka, topic: MakeTopic, publish: Publish, payload: list[str], stdin: bytes, value: bytes | None
) -> None:
    name = topic()
    Path("file.json").write_bytes(b"[1]")
    assert publish("t", "--topic", name, *payload, stdin=stdin).code == 0
    assert values(kafka, name) == [value]


def test_raw_sends_bytes_as_they_are(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    raw = ["t", "--topic", name, "--raw", "--header", "content-type=application/avro"]
    assert publish(*raw, "-", stdin=b"\x00\xff{").code == 0
    assert publish(*raw, os.fsdecode(b"\xfe")).code == 0
    assert values(kafka, name) == [b"\x00\xff{", b"\xfe"]
    assert dict(read_all(kafka.bootstrap, name)[0].headers() or [])["content-type"] == b"application/avro"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["t", '{"a": nope}'], "PAYLOAD is not JSON: Expecting value: line 1 column 7"),
        (["t", '{"a": 1'], "PAYLOAD is not JSON: Expecting ',' delimiter: line 1 column 8"),
        (["t", ""], "PAYLOAD is not JSON: Expecting value: line 1 column 1"),
        (["t", "NaN"], "PAYLOAD is not JSON: JSON is malformed"),
        (["t", "1e999"], "PAYLOAD is not JSON: Number out of range"),
        (["t", "[" * 100_000], "nested too deeply"),
        (["t", os.fsdecode(b'"\xff"')], "byte 1 is not UTF-8"),
        (["t", "@missing.json"], "cannot read missing.json"),
        (["t", "--file", "missing.ndjson"], "cannot read missing.ndjson"),
        (["t", "1", "--file", "-"], "--file gives the payload of every message"),
        (["t", "--id", "i", "--file", "-"], "--file gives the payload of every message"),
        (["t", "1", "--header", "novalue"], "--header 'novalue' is not name=value"),
        (["t", "1", "--header", "ce_id=1"], "give it as id="),
        (["t", "1", "--header", "content-type=text/plain"], "only a payload given as bytes"),
        (["_t", "1"], "is not a task name"),
        (["t", "1", "--timeout", "soon"], "'soon' is not a duration"),
        (["t", "1", "--topic", "^a"], "name one topic with --topic"),
        (["t", "1", "--topic", "a b"], "a b"),
        (["t", "1", "-X", "acks=0"], "acks"),
        (["t", "1", "-X", "no.such=0"], "no.such"),
        (["t", "1", "--later", "1s"], "No such option"),
        ([], "Missing argument 'TASK'"),
    ],
)
def test_what_is_wrong_with_the_usage_is_said_and_ends_with_2(
    publish: Publish, arguments: list[str], said: str
) -> None:
    code, out, err = publish(*arguments)
    assert (code, out) == (2, [])
    assert said in err
    assert "Traceback" not in err


def test_the_topic_of_the_configuration_is_the_default(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    Path("kworker.toml").write_text(
        f'topic = ["{name}"]\n[kafka]\n"message.timeout.ms" = 9000\n"group.protocol" = "consumer"\n'
    )
    assert publish("t", "1").out == [f"{name}/0/0"]
    Path("kworker.toml").write_text(f'topic = ["{name}", "other"]')
    assert publish("t", "1").code == 2
    assert publish("t", "1", "--topic", name).out == [f"{name}/0/1"]


def test_a_message_that_is_not_acknowledged_ends_with_1_and_the_reason(publish: Publish) -> None:
    said = publish("t", "1", "--timeout", "500ms", bootstrap="127.0.0.1:1")
    assert (said.code, said.out) == (1, [])
    assert "kworker: 't' was not published: no acknowledgement within 0.5 s (" in said.err
    assert "refused" in said.err


def test_each_line_of_a_file_is_a_message(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    Path("items.ndjson").write_bytes(b'{"n": 1}\n\n \r\n[2]\r\n"last"')
    said = publish("t", "--topic", name, "--key", "k", "--file", "items.ndjson")
    assert said == Said(0, [f"{name}/0/0", f"{name}/0/1", f"{name}/0/2"], "")
    messages = read_all(kafka.bootstrap, name)
    assert [m.value() for m in messages] == [b'{"n": 1}', b"[2]", b'"last"']
    assert {m.key() for m in messages} == {b"k"}
    assert len({dict(m.headers() or [])["ce_id"] for m in messages}) == 3


def test_a_file_larger_than_a_read_arrives_whole_and_in_order(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    lines = [json.dumps({"n": n, "text": "x" * (n % 2_000)}).encode() for n in range(3 * CHUNK)]
    said = publish("t", "--topic", name, "--file", "-", stdin=b"\n".join(lines))
    assert said.code == 0
    assert said.out == [f"{name}/0/{n}" for n in range(len(lines))]
    assert values(kafka, name) == lines


def test_an_empty_file_publishes_nothing(publish: Publish) -> None:
    assert publish("t", "--file", "-") == Said(0, [], "")


def test_raw_lines_are_sent_as_they_are(kafka: Kafka, topic: MakeTopic, publish: Publish) -> None:
    name = topic()
    assert publish("t", "--topic", name, "--raw", "--file", "-", stdin=b"nope\n\xff {\n").code == 0
    assert values(kafka, name) == [b"nope", b"\xff {"]


def test_lines_before_a_faulty_one_are_published_and_none_after(
    kafka: Kafka, topic: MakeTopic, publish: Publish
) -> None:
    name = topic()
    said = publish("t", "--topic", name, "--file", "-", stdin=b"1\n2\nnope\n4\n")
    assert (said.code, said.out) == (2, [f"{name}/0/0", f"{name}/0/1"])
    assert "-, line 3 is not JSON: Expecting value" in said.err
    assert values(kafka, name) == [b"1", b"2"]


def test_lines_that_the_broker_refuses_are_named_and_the_others_published(
    kafka: Kafka, topic: MakeTopic, publish: Publish
) -> None:
    name = topic(config={"max.message.bytes": "1000"})
    large = json.dumps(os.urandom(1_000).hex()).encode()
    alone = ["-X", "batch.num.messages=1"]  # the broker refuses a batch as a whole
    said = publish(
        "t", "--topic", name, "--file", "-", "--json", *alone, stdin=b"1\n" + large + b"\n" + large + b"\n4\n"
    )
    assert said.code == 1
    assert [json.loads(line)["line"] for line in said.out] == [1, 4]
    assert "kworker: -, lines 2 to 3: 't' was not published: " in said.err
    assert values(kafka, name) == [b"1", b"4"]


def test_a_file_is_not_tried_to_its_end_when_nothing_is_acknowledged(publish: Publish) -> None:
    stdin = b"1\n" * (CHUNK + 1)
    said = publish("t", "--timeout", "300ms", "--file", "-", stdin=stdin, bootstrap="127.0.0.1:1")
    assert (said.code, said.out) == (1, [])
    assert f"kworker: -, lines 1 to {CHUNK}: 't' was not published" in said.err
    assert f"kworker: -: the lines after {CHUNK} were not tried" in said.err


def test_a_pipe_is_published_while_it_is_written(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    command = [sys.executable, "-m", "kworker", "publish", "--bootstrap", kafka.bootstrap, "--topic", name, "t"]
    with subprocess.Popen([*command, "--file", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(2):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == f"{name}/0/{n}\n".encode()
        process.stdin.close()
        assert process.wait(20) == 0


def test_on_a_terminal_a_file_shows_a_progress_bar(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    name, items = topic(), tmp_path / "items.ndjson"
    items.write_bytes(b"1\n" * 2_500)
    command = [sys.executable, "-m", "kworker", "publish", "--bootstrap", kafka.bootstrap, "--topic", name, "t"]
    ours, theirs = os.openpty()
    with subprocess.Popen([*command, "--file", str(items)], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        places = process.stdout.read().splitlines()
        shown = _until_closed(ours)
    assert process.returncode == 0
    assert places == [f"{name}/0/{n}".encode() for n in range(2_500)]
    assert "100%" in shown
    assert "2500 messages published" in shown


def _until_closed(terminal: int) -> str:
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # how Linux tells that the other end of a terminal is closed
        pass
    os.close(terminal)
    return shown.decode()


def test_a_reader_that_went_away_ends_the_command(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    command = [sys.executable, "-m", "kworker", "publish", "--bootstrap", kafka.bootstrap, "--topic", name, "t"]
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([*command, "1"], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    wait_for(lambda: values(kafka, name) == [b"1"], 10, "the message")
