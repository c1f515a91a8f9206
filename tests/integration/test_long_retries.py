"""Retries that wait in the delay log: the slot and the offset are free meanwhile, and the task comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from kit import Kafka, NewRecord, create_topic, produce, read_all
from kit.retrying import Retrying
from kit.stage import Stage, metric, owned
from kit.worker_process import WorkerProcess
from kworker import Client, cli
from kworker.kafka.delaylog import WANTED
from kworker.task import Headers


@pytest.fixture
def retrying(kafka: Kafka, tmp_path: Path) -> Iterator[Retrying]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield Retrying(stage)


def test_a_long_retry_frees_its_offset_and_comes_back_as_the_task_it_was(retrying: Retrying) -> None:
    """Through the delay log and the retry topic: attempts, place, headers, time of publishing, dead letter."""
    stage = retrying.stage
    headers = (
        ("ce_type", b"probe.again"),
        ("x", b"\xff"),
        ("kworker-attempt", b"77"),
        ("kworker-origin", b"else/0/0"),
        ("x", None),
    )
    worker = retrying.worker()
    retrying.warm_up(worker)
    produce(
        retrying.bootstrap,
        retrying.topic,
        [NewRecord(b'{"n": 1}', b"one", headers, 0), NewRecord(b'{"n": 2}', b"", (("task", b"probe.again"),), 1)],
    )
    published = {m.value(): m.timestamp()[1] for m in read_all(retrying.bootstrap, retrying.topic)}
    stage.wait_noted("ran", [2], worker)
    letters = f"{retrying.topic}.dlq"
    stage.wait(lambda: letters in retrying.topics() and read_all(retrying.bootstrap, letters), "a dead letter", worker)
    assert [retrying.attempts(1), retrying.attempts(2)] == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert {(noted.topic, noted.partition, noted.offset) for noted in stage.noted() if noted.n < 3} == {
        (retrying.topic, 0, 1),
        (retrying.topic, 1, 0),
    }
    (letter,) = read_all(retrying.bootstrap, letters)
    assert (letter.key(), letter.value()) == (b"one", b'{"n": 1}')
    told = cast(Headers, letter.headers() or [])
    assert told[: len(headers)] == list(headers)
    said = dict(told[len(headers) :])
    assert (said["kworker-reason"], said["kworker-attempts"]) == (b"exhausted", b"4")
    assert said["kworker-origin"] == f"{retrying.topic}/0/1".encode()
    late = int(said["kworker-failed-at"] or b"") - int(said["kworker-first-seen"] or b"")
    assert late >= 4_500, "first-seen is not that of the first attempt"
    assert int(said["kworker-first-seen"] or b"") >= published[b'{"n": 1}']
    assert len(told) == len(headers) + 11, "nothing of the way is left"
    stage.wait_all_committed(retrying.topic, worker)  # though one waits for an hour
    stage.wait_all_committed(retrying.retries, worker)
    assert metric(worker, "kworker_tasks_delayed_total", task="probe.again") == 6
    assert metric(worker, "kworker_tasks_retried_total", task="probe.again") == 6
    assert worker.status()["waiting_retries"] == 0
    assert f"{retrying.retries}.dlq" not in retrying.topics()
    worker.terminate()
    assert worker.wait() == 0


def test_each_group_tries_again_for_itself_with_a_regular_expression_and_from_latest(retrying: Retrying) -> None:
    """A task fails in two groups: each has its own retries, also where a regular expression says what is read."""
    stage = retrying.stage

    def has_both(worker: WorkerProcess) -> bool:
        return len(owned(worker)) == 2

    workers = [
        retrying.worker("--from", "latest", topic=f"^{retrying.topic}$"),
        retrying.worker("--group", f"{stage.group}-b"),
    ]
    for worker in workers:
        worker.wait_ready()
        stage.wait(partial(has_both, worker), "both partitions are assigned", worker)
    stage.publish(retrying.topic, "again", [2])

    def over() -> bool:
        return stage.numbers("ran")[2] == 2

    stage.wait(over, "both groups are done", *workers)
    tried = {
        worker.pid: [one.attempt for one in stage.noted() if one.event == "began" and one.pid == worker.pid]
        for worker in workers
    }
    assert list(tried.values()) == [[1, 2, 3, 4], [1, 2, 3, 4]]
    stage.wait_all_committed(retrying.retries, workers[0])
    for worker, retries in zip(workers, (retrying.retries, f"{retrying.retries}-b"), strict=True):
        both = {retrying.topic, retries}
        stage.wait(partial(lambda worker, both: {topic for topic, _ in owned(worker)} == both, worker, both), retries)


def test_what_came_back_before_the_first_assignment_runs_and_what_is_no_retry_is_set_aside(retrying: Retrying) -> None:
    """From latest, too: a retry topic is read from its start. Only there kworker-* headers are believed."""
    stage = retrying.stage
    create_topic(retrying.bootstrap, retrying.retries, 2)
    origin = ("kworker-origin", f"{retrying.topic}/1/7".encode())
    info = (("kworker-attempt", b"4"), ("kworker-first-seen", b"1700000000000"), origin)
    produce(
        retrying.bootstrap,
        retrying.retries,
        [
            NewRecord(b'{"n": 2}', b"k", (("ce_type", b"probe.again"), *info), 0),
            NewRecord(b'{"n": 4}', b"k", (("ce_type", b"probe.again"),), 1),
            NewRecord(b'{"n": 6}', b"k", (("ce_type", b"probe.gone"), *info), 1),
        ],
    )
    worker = retrying.worker("--from", "latest", topic=f"^{retrying.topic}$")
    stage.wait_noted("ran", [2], worker)
    stage.wait_all_committed(retrying.retries, worker)
    assert [(one.topic, one.partition, one.offset, one.attempt) for one in stage.noted() if one.event == "began"] == [
        (retrying.topic, 1, 7, 4)
    ]
    (garbage,) = read_all(retrying.bootstrap, f"{retrying.retries}.dlq")
    assert dict(garbage.headers() or [])["kworker-reason"] == b"undecodable"
    (gone,) = read_all(retrying.bootstrap, f"{retrying.topic}.dlq")
    told = dict(gone.headers() or [])
    assert (told["kworker-reason"], told["kworker-attempts"]) == (b"unroutable", b"3")
    assert (told["kworker-origin"], told["kworker-first-seen"]) == (origin[1], b"1700000000000")


def test_a_key_waits_in_memory_and_no_longer_than_it_may(retrying: Retrying) -> None:
    stage = retrying.stage
    worker = retrying.worker("--order", "key", "--retry-in-lane", "100ms")
    headers = (("ce_type", b"probe.later"),)
    produce(retrying.bootstrap, retrying.topic, [NewRecord(b'{"n": %d}' % n, b"k", headers, 1) for n in (3000, 7200)])
    stage.wait_noted("ran", [3000, 7200], worker)
    assert [(one.n, one.event) for one in stage.noted()] == [
        (n, event) for n in (3000, 7200) for event in ("began", "began", "ran")
    ]
    assert not {retrying.log, retrying.retries} & retrying.topics()
    retrying.warm_up(worker)  # without a key
    assert {retrying.log, retrying.retries} <= retrying.topics()


@pytest.mark.long
def test_where_the_delay_log_cannot_be_made_or_written_retries_wait_in_memory(retrying: Retrying) -> None:
    """It is told once, with what to do, and nothing else is affected; as soon as it can, they wait there."""
    stage = retrying.stage
    worker = retrying.worker("--create-topics", "false")
    stage.publish(retrying.topic, "again", [2, 4, 6])
    stage.wait_noted("ran", [2, 4, 6], worker)
    assert worker.ready()
    (line,) = [line for line in worker.logged().splitlines() if "long retries wait in memory" in line]
    assert f"{retrying.log} is missing, make it with: kafka-topics.sh" in line
    assert f"{retrying.retries} is missing, make it with: kafka-topics.sh" in line
    create_topic(retrying.bootstrap, retrying.log, 1, {**WANTED, "max.message.bytes": "200"})
    create_topic(retrying.bootstrap, retrying.retries, 1)
    stage.wait(lambda: retrying.retries in {topic for topic, _ in owned(worker)}, "the retry topic is read", worker)
    stage.publish(retrying.topic, "again", [8, 10])
    stage.wait_noted("ran", [8, 10], worker)
    assert worker.ready()
    assert worker.logged().count("the delay log did not take a retry: it waits in memory") == 1
    assert metric(worker, "kworker_tasks_delayed_total", task="probe.again") == 0
    assert [retrying.attempts(n) for n in (2, 4, 6, 8, 10)] == [[1, 2, 3, 4]] * 5
    stage.wait_all_committed(retrying.topic, worker)


def test_a_waiting_retry_is_listed_shown_and_cancelled(
    retrying: Retrying, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled it is gone: it does not run again, and is no dead letter. And kworker check tells of the topics."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main([*arguments, "--bootstrap", retrying.bootstrap, "--namespace", retrying.namespace])
        return capsys.readouterr().out

    stage = retrying.stage
    check = ("check", "--topic", retrying.topic, "--group", stage.group)
    assert (
        f"topic {retrying.retries}: does not exist yet; it is made with the first of retries of more than 30s"
        in run(*check)
    )
    worker = retrying.worker()
    stage.publish(retrying.topic, "later", [3600], partition=1)
    stage.wait_noted("began", [3600], worker)
    stage.wait_all_committed(retrying.topic, worker)
    id = f"{stage.group}/{retrying.topic}/1/0"
    with Client(retrying.bootstrap, namespace=retrying.namespace) as client:
        stage.wait(lambda: client.find_delayed(id), "it waits", worker)
        assert f"ok    topic {retrying.retries}: retries of more than 30s come back there\n" in run(*check)
        (line,) = run("delayed", "ls").splitlines()[1:-1]
        assert line.split()[2:] == [id, "probe.later", retrying.retries]
        shown = json.loads(run("delayed", "show", id))
        assert (shown["attempt"], shown["origin"]) == (2, f"{retrying.topic}/1/0")
        assert shown["headers"] == [["ce_type", "probe.later"]]
        assert run("delayed", "cancel", id) == f"{id}: cancelled\n"
        assert client.find_delayed(id) is None
    assert retrying.attempts(3600) == [1]
    assert worker.ready()
