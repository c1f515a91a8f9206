"""`kworker lag`: the true backlog, with no worker running, against what a reader of the log counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer

from kit import Kafka
from kit.records import NewRecord, end_offsets, produce, read_all
from kit.stage import Stage
from kworker import Client
from kworker.task import Headers


@pytest.fixture
def stage(tmp_path: Path, kafka: Kafka) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


def lag(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kworker", "lag", "--bootstrap", stage.bootstrap, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=stage.folder)


def told(stage: Stage, *arguments: str) -> dict[str, Any]:
    answer = lag(stage, *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def in_transaction(stage: Stage, topic: str, numbers: range, *, abort: bool) -> None:
    producer = Producer({"bootstrap.servers": stage.bootstrap, "transactional.id": f"{topic}-{abort}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for n in numbers:
        producer.produce(topic, b'{"n": %d}' % n, partition=0, headers=[("ce_type", b"probe.note")])
    producer.flush(30)
    (producer.abort_transaction if abort else producer.commit_transaction)(30)


def counted(stage: Stage, group: str, topic: str) -> dict[int, int]:
    """What an independent reader finds unfinished."""
    stage.group = group
    committed = stage.committed(topic)
    counts = dict.fromkeys(end_offsets(stage.bootstrap, topic), 0)
    for message in read_all(stage.bootstrap, topic):
        partition, offset = message.partition() or 0, message.offset() or 0
        bounds = stage.finished(topic, partition)
        done = any(start <= offset < end for start, end in zip(bounds[::2], bounds[1::2], strict=True))
        counts[partition] += not (offset < committed.get(partition, (0, ""))[0] or done)
    return counts


def test_the_backlog_of_three_groups_is_what_a_reader_of_the_log_counts(stage: Stage) -> None:
    topic, groups = stage.topic(2), [f"{stage.group}-{n}" for n in range(3)]
    stage.publish(topic, "hold", [0], 0)
    in_transaction(stage, topic, range(100, 130), abort=False)
    in_transaction(stage, topic, range(200, 230), abort=True)
    stage.publish(topic, "note", range(1, 41), 0)
    stage.publish(topic, "note", range(41, 61), 1)
    stage.group = groups[0]
    worker = stage.start(topics=[topic])
    notes = {*range(1, 61), *range(100, 130)}
    stage.wait_noted("ran", notes, worker)
    stage.wait(lambda: counted(stage, groups[0], topic) == {0: 1, 1: 0}, "all but the head committed", worker)
    worker.kill9()
    stage.group = groups[1]
    other = stage.start(topics=[topic])
    stage.let_go()
    stage.wait_all_committed(topic, other)
    other.terminate()
    assert other.wait() == 0
    stage.publish(topic, "note", range(300, 310), 1)
    for group in groups:
        document = told(stage, "--group", group, "--topic", topic, "--exact")
        assert document["group"] == group
        exact = {row["partition"]: row["exact"] for row in document["partitions"]}
        assert exact == counted(stage, group, topic)
        assert document["unfinished"] == sum(exact.values())
        for row in document["partitions"]:
            assert row["topic"] == topic
            assert row["exact"] <= row["unfinished"] <= row["lag"]
            assert (row["oldest"] is not None) == bool(row["exact"])
    assert counted(stage, groups[0], topic) == {0: 1, 1: 10}
    assert counted(stage, groups[1], topic) == {0: 0, 1: 10}
    assert counted(stage, groups[2], topic) == {0: 71, 1: 30}


def waiting(stage: Stage, log: str) -> Counter[tuple[str, str]]:
    """What an independent reader finds in the delay log: (target, due or not yet) -> how many."""
    waits: dict[tuple[int | None, bytes | None], tuple[int, int, str]] = {}
    for message in read_all(stage.bootstrap, log):
        headers: dict[str, bytes | None] = dict(cast(Headers, message.headers() or []))
        place, offset = (message.partition(), message.key()), message.offset() or 0
        if message.value() is None:
            last = int(headers.get("kworker-entry") or offset)
            if place in waits and waits[place][0] <= last:
                del waits[place]
        elif "kworker-due" in headers:  # else it is a request
            waits[place] = offset, int(headers["kworker-due"] or 0), str(headers["kworker-target"] or b"", "utf-8")
    now = time.time() * 1000
    return Counter((target, "due" if due <= now else "later") for _, due, target in waits.values())


def test_delayed_tasks_and_retries_count_from_when_they_are_due(stage: Stage) -> None:
    namespace, groups, topic = f"lag-{stage.group}", [f"{stage.group}-{n}" for n in range(3)], stage.topic(2)
    log, retries = f"{namespace}.delayed", f"{namespace}.retry.{groups[0]}"
    with Client(stage.bootstrap, topic=topic, namespace=namespace) as client:
        for id in ("far", "moved", "cancelled"):
            client.publish("probe.note", {"n": 500}, id=id, delay="1h")
        stage.group = groups[0]
        worker = stage.start("--namespace", namespace, "--retry-in-memory", "1s", topics=[topic])
        in_transaction(stage, topic, range(200, 230), abort=True)
        stage.publish(topic, "hold", [0], 0)
        stage.publish(topic, "note", range(1, 41), 0)
        stage.wait_noted("ran", range(1, 41), worker)
        assert client.cancel("cancelled", timeout=40) == "cancelled"
        stage.publish(topic, "later", [10], 1)
        stage.wait(lambda: waiting(stage, log)[retries, "later"] == 1, "the retry in the delay log", worker)
        stage.wait(lambda: counted(stage, groups[0], topic) == {0: 1, 1: 0}, "all but the head committed", worker)
        worker.kill9()
        stage.let_go()
        stage.group = groups[1]  # it keeps time for the other group as well
        worker = stage.start("--namespace", namespace, topics=[topic])
        stage.wait(lambda: read_all(stage.bootstrap, retries), "the retry handed over", worker)
        stage.wait_all_committed(topic, worker)
        worker.terminate()
        assert worker.wait() == 0
        for n in range(3):
            client.publish("probe.note", {"n": n}, delay="10ms")
        client.publish("probe.note", {"n": 500}, id="moved", delay="10ms")
        client.publish("probe.note", {"n": 3}, topic="read-by-nobody", delay="10ms")
    due = (("kworker-target", retries.encode()), ("kworker-due", b"1000"), ("kworker-null", b"0"))
    produce(stage.bootstrap, log, [NewRecord(b"{}", f"{groups[0]}/{topic}/1/999".encode(), due)])
    stage.wait(lambda: waiting(stage, log)["read-by-nobody", "due"] == 1, "all of it due")
    found = waiting(stage, log)
    assert found == {(topic, "due"): 4, (topic, "later"): 1, (retries, "due"): 1, ("read-by-nobody", "due"): 1}
    expected = [1 + 1 + 4 + 1, 4, 42 + 4]
    for group, number in zip(groups, expected, strict=True):
        own = f"{namespace}.retry.{group}"
        asked = ("--group", group, "--topic", topic, "--namespace", namespace)
        exact, plain = told(stage, *asked, "--exact"), told(stage, *asked)
        records = {(row["topic"], row["partition"]): row["exact"] for row in exact["partitions"]}
        read = [topic, retries] if group == groups[0] else [topic]
        assert {place: count for place, count in records.items() if count} == {
            (name, n): count for name in read for n, count in counted(stage, group, name).items() if count
        }
        mine = {name: count for (name, when), count in found.items() if when == "due" and name in (topic, own)}
        for document in (exact, plain):
            assert {row["topic"]: row["due"] for row in document["delayed"]} == mine
            assert {row["topic"]: row["delayed"] for row in document["delayed"] if row["delayed"]} == {topic: 1}
            assert all(row["oldest"] > 0 for row in document["delayed"])
        assert exact["unfinished"] == sum(records.values()) + sum(mine.values()) == number
        assert plain["unfinished"] >= exact["unfinished"]
    lines = lag(stage, "--group", groups[1], "--topic", topic, "--namespace", namespace).stdout.splitlines()
    assert next(line.split()[:6] for line in lines if " due " in line) == [topic, "due", "-", "-", "-", "4"]
    assert f"4 unfinished in group {groups[1]}" in lines
    assert lines[-1].startswith(f"1 delayed for {topic}, the next is due in 3,")


def test_people_get_a_table_and_a_sum(stage: Stage) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(7))
    answer = lag(stage, "--group", stage.group, "--topic", topic)
    assert answer.returncode == 0, answer.stderr
    head, row, total = answer.stdout.splitlines()
    assert head.split() == ["topic", "partition", "committed", "end", "lag", "unfinished", "oldest"]
    assert row.split()[:6] == [topic, "0", "-", "7", "7", "7"]
    assert total == f"7 unfinished in group {stage.group}"


def test_a_group_that_read_nothing_of_a_topic_that_is_not_there_is_told(stage: Stage) -> None:
    answer = lag(stage, "--group", stage.group, "--topic", "not-there-at-all")
    assert answer.returncode == 1
    assert answer.stderr.startswith("kworker: group ")
    assert "has committed nothing, and there is no topic not-there-at-all" in answer.stderr


def test_what_is_not_due_yet_is_told_though_nothing_else_is_there(stage: Stage) -> None:
    namespace, topic = f"lag-{stage.group}", f"{stage.group}-not-there"
    with Client(stage.bootstrap, topic=topic, namespace=namespace) as client:
        client.publish("probe.note", {"n": 1}, delay="1h")
    answer = lag(stage, "--group", stage.group, "--topic", topic, "--namespace", namespace)
    assert answer.returncode == 0, answer.stderr
    _, total, later = answer.stdout.splitlines()
    assert total == f"0 unfinished in group {stage.group}"
    assert later.startswith(f"1 delayed for {topic}, the next is due in 3,")


def test_a_broker_that_does_not_answer_is_one_line(stage: Stage) -> None:
    stage.bootstrap = "127.0.0.1:1"
    answer = lag(stage, "--group", stage.group)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("kworker: broker 127.0.0.1:1: ")
    assert "check --bootstrap" in line
