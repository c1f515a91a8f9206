"""`kworker replay` on a real Kafka: one record is run, what came of it is told, and nothing changes at the broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka.admin import AdminClient

import kit
from kit import Kafka, MakeTopic, NewRecord, end_offsets, produce

PLUGIN = Path(kit.__file__).parent / "replay_plugin"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    def line(self, what: str) -> str:
        """The line that begins so, without its beginning."""
        (found,) = [line for line in self.out.splitlines() if line.split(" ", 1)[0] == what]
        return found[8:].strip()


Replay = Callable[..., Said]


@pytest.fixture
def replay(kafka: Kafka, tmp_path: Path) -> Replay:
    """Runs the command in a process of its own, in an empty directory."""
    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(place: str, *arguments: str, stdin: str = "", bootstrap: str = kafka.bootstrap) -> Said:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kworker",
                "replay",
                place,
                "--bootstrap",
                bootstrap,
                "--plugin",
                "replay",
                *arguments,
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def record(task: str, value: bytes | None = None, *more: tuple[str, bytes]) -> NewRecord:
    return NewRecord(value, b"k", (("ce_type", task.encode()), *more))


def test_a_success_is_told_and_changes_nothing(kafka: Kafka, topic: MakeTopic, replay: Replay, tmp_path: Path) -> None:
    name = topic(2)
    greet = record("replay.greet", b'{"who": "Ada"}', ("ce_id", b"i1"))
    produce(kafka.bootstrap, name, [NewRecord(b"", partition=1), greet._replace(partition=1)])
    (tmp_path / "kworker.toml").write_text('group = "mine"\n[plugins.replay]\ngreeting = "Ahoy"\n')
    before = end_offsets(kafka.bootstrap, name)
    said = replay(f"{name}:1:1", "--attempt", "3")
    assert said.code == 0, said
    assert said.line("record").startswith(f"{name}/1/1, ")
    assert said.line("task") == "replay.greet, id i1, attempt 3 of 8"
    assert said.line("outcome") == "succeeded"
    assert said.line("result") == '{"said":"Ahoy Ada","id":"i1","attempt":3,"offset":1}'
    assert said.line("publish") == f"""{name}: replay.next key b'k' {{"who":"Ada"}}"""
    assert said.line("broker") == "nothing was committed or published; a worker would publish 1 message"
    assert said.out.splitlines()[2] == "set up"
    assert said.out.splitlines()[-1] == "torn down"
    assert "greeting" in said.err
    assert end_offsets(kafka.bootstrap, name) == before
    groups = {
        group.group_id
        for group in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_consumer_groups().result().valid
    }
    assert groups.isdisjoint({"mine", "kworker-replay"})


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (record("replay.later", b'"Ada"'), {"outcome": "succeeded", "result": '"Ada"'}),
        (record("replay.child"), {"outcome": "succeeded", "result": "null"}),
        (
            record("replay.divide", b"0"),
            {"error": "ZeroDivisionError: division by zero", "worker": "would try again after 1 s, as attempt 2 of 3"},
        ),
        (
            record("replay.fail"),
            {"error": r"Retry: \x1b[2Jtry again", "worker": "would try again after 7 s, as attempt 2 of 8"},
        ),
        (record("replay.reject"), {"error": "Reject: no", "worker": "would set it aside in {topic}.dlq: rejected"}),
        (record("replay.exit"), {"error": "SystemExit: 0", "worker": "would try again after 1 s, as attempt 2 of 8"}),
        (record("replay.divide", b'"x"'), {"worker": "would set it aside in {topic}.dlq: invalid"}),
        (record("replay.divide", b"{"), {"worker": "would set it aside in {topic}.dlq: undecodable"}),
        (record("no.such"), {"worker": "would set it aside in {topic}.dlq: unroutable"}),
        (NewRecord(b"1"), {"worker": "would set it aside in {topic}.dlq: unroutable"}),
    ],
    ids=["async", "process", "failure", "retry", "reject", "exit", "invalid", "undecodable", "unknown", "no-name"],
)
def test_every_end_is_told(
    kafka: Kafka, topic: MakeTopic, replay: Replay, made: NewRecord, lines: dict[str, str]
) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [made])
    said = replay(f"{name}/0/0")
    assert said.code == (0 if lines.get("outcome") == "succeeded" else 1), said
    assert {what: said.line(what) for what in lines} == {
        what: text.replace("{topic}", name) for what, text in lines.items()
    }
    assert said.line("broker") == "nothing was committed or published"
    assert "\x1b" not in said.out
    assert "Traceback" not in said.err


def test_a_failure_shows_its_stack_and_the_last_attempt_is_a_dead_letter(
    kafka: Kafka, topic: MakeTopic, replay: Replay
) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [record("replay.divide", b"0")])
    said = replay(f"{name}:0:0", "--attempt", "3")
    assert said.line("worker") == f"would set it aside in {name}.dlq: exhausted"
    assert "return 1 / by" in said.out
    assert "executors/base.py" not in said.out


def test_a_result_that_json_cannot_hold_is_told(kafka: Kafka, topic: MakeTopic, replay: Replay) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [record("replay.object")])
    assert "(which JSON cannot hold)" in replay(f"{name}:0:0").line("result")


def test_the_debugger_opens_where_the_task_raised(kafka: Kafka, topic: MakeTopic, replay: Replay) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [record("replay.divide", b"0"), record("replay.greet", b'"Ada"')])
    said = replay(f"{name}:0:0", "--pdb", stdin="p 'by is', by\nq\n")
    assert said.code == 1
    assert "('by is', 0)" in said.out
    assert said.out.splitlines()[-1].endswith("torn down")
    assert "(Pdb)" not in replay(f"{name}:0:1", "--pdb").out


def test_the_default_task_of_the_topic_counts(kafka: Kafka, topic: MakeTopic, replay: Replay, tmp_path: Path) -> None:
    name = topic()
    produce(kafka.bootstrap, name, [NewRecord(b'"Ada"')])
    (tmp_path / "kworker.toml").write_text(f'[topics."{name}"]\ntask = "replay.later"\n')
    assert replay(f"{name}:0:0").line("result") == '"Ada"'


def test_what_is_not_there_is_told_on_one_line(kafka: Kafka, topic: MakeTopic, replay: Replay) -> None:
    name, empty = topic(2), topic()
    produce(kafka.bootstrap, name, [NewRecord(b"", partition=0)] * 3)
    for place, why in {
        "no-such-topic:0:0": "there is no topic no-such-topic at this broker",
        f"{name}:2:0": f"{name} has the partitions 0 to 1",
        f"{name}:0:3": f"{name}/0 has the offsets 0 to 2",
        f"{empty}:0:0": f"{empty}/0 is empty; its next offset is 0",
    }.items():
        said = replay(place)
        assert (said.code, said.out) == (2, "")
        (line,) = said.err.splitlines()
        assert line == f"kworker: {place.replace(':', '/')}: {why}"


def test_the_mark_of_a_transaction_is_no_record(kafka: Kafka, topic: MakeTopic, replay: Replay) -> None:
    from confluent_kafka import Producer

    name = topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(name, b"1")
    producer.commit_transaction(30)
    produce(kafka.bootstrap, name, [b"2"])
    said = replay(f"{name}:0:1")
    assert said.code == 2
    assert "there is no record" in said.err
    assert said.err.endswith("the next is at 2\n")


def test_a_broker_that_does_not_answer_is_told(replay: Replay) -> None:
    said = replay("t:0:0", bootstrap="127.0.0.1:1")
    (line,) = said.err.splitlines()
    assert said.code == 2
    assert line.startswith("kworker: t/0/0: broker 127.0.0.1:1: ")
    assert "check --bootstrap" in line
