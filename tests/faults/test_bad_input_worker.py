"""FAULTS.md "Bad input" 26, 30, 39 and 40: a hot key, tasks that end the process, and what the admin port is sent."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from faults.bad_records import new
from faults.letters import last
from faults.tasks import work
from faults.worker import Calls, StartWorker, samples, wait_committed
from kit import Kafka, MakeTopic, produce, read_all, wait_for
from kit.stage import metric
from kit.worker_process import WorkerProcess


def test_bad_input_26_a_hot_key_is_kept_in_order_and_starves_nobody(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, tmp_path: Path
) -> None:
    """One partition; the hot key's first task holds on until all others, published behind 2,000 of it, are done."""
    name = topic()
    gate = tmp_path / "others are done"
    hot = [work("hot 0", key=b"hot", until=str(gate))]
    hot += [work(f"hot {n}", key=b"hot", fail=int(n % 100 == 7)) for n in range(1, 2000)]
    cold = [work(f"cold {n}", key=b"cold %d" % n if n % 2 else None) for n in range(500)]
    produce(kafka.bootstrap, name, hot + cold)
    worker = start_worker(kafka.bootstrap, name, "--order", "key")
    wait_for(lambda: sum(id.startswith("cold") for id in calls.counted("end")) == len(cold), 30, "the others are done")
    assert set(calls.counted("start")) == {"hot 0", *(f"cold {n}" for n in range(500))}
    gate.touch()
    wait_committed(worker, len(hot) + len(cold), 60)
    wanted = []
    for n in range(2000):
        wanted += [("start", f"hot {n}")] * (2 if n % 100 == 7 else 1) + [("end", f"hot {n}")]
    assert [(task, id) for task, _, id in calls.read() if id.startswith("hot")] == wanted


@pytest.mark.parametrize(("how", "code"), [("exit", 66), ("abort", -6), ("kill", -9), ("segfault", -11)])
def test_bad_input_30_a_task_that_ends_the_process(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, tmp_path: Path, how: str, code: int
) -> None:
    """In a thread it takes the worker with it. A restart runs what was not committed, and nothing is lost."""
    name = topic()
    record = new("die", json.dumps({"how": how, "marker": str(tmp_path / "died")}).encode())
    good = [new("greet", json.dumps({"name": str(n)}).encode()) for n in range(100)]
    produce(kafka.bootstrap, name, [*good[:50], record, *good[50:]])
    worker = start_worker(kafka.bootstrap, name)
    assert worker.wait(30) == code, worker.logged()
    worker = start_worker(kafka.bootstrap, name)
    wait_committed(worker, 101)
    names = {detail[1] for detail in calls.counted("greet")}
    assert names == {str(n) for n in range(100)}
    assert calls.counted("die") == {how: 2}
    (letter,) = read_all(kafka.bootstrap, f"{name}.dlq")
    assert (letter.key(), letter.value()) == (record.key, record.value)
    assert last(letter, "kworker-reason") == "rejected"


def _ask(
    worker: WorkerProcess, path: str, method: str = "GET", host: str = "localhost"
) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(worker.url + path, method=method, headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_bad_input_39_the_admin_port_only_answers_reads(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, tmp_path: Path
) -> None:
    name, gate = topic(), tmp_path / "go on"
    worker = start_worker(kafka.bootstrap, name)
    worker.wait_ready()
    evil = "<script>alert(1)</script>"
    record = new("work", json.dumps({"id": evil, "until": str(gate)}).encode(), ("ce_id", evil.encode()))
    produce(kafka.bootstrap, name, [record, new(evil, b"{}"), new("raise", json.dumps({"what": "surrogate"}).encode())])
    wait_for(lambda: calls.counted("start"), 20, "the task runs")

    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert _ask(worker, "/status", method)[0] == 405, method
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/metrics/../status", "/status%00", "/.git"):
        assert _ask(worker, path)[0] == 404, path
    for path in ("/status?limit=1000000000", "/metrics?" + "x" * 10_000, "/livez?verbose&verbose"):
        assert _ask(worker, path)[0] == 200, path
    assert _ask(worker, "/status", host="evil.example")[0] == 403
    status, page, headers = _ask(worker, "/status")
    assert (status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, "application/json", "nosniff")
    assert [item["id"] for item in json.loads(page)["running"]] == [evil]
    assert evil not in _ask(worker, "/metrics")[1]
    gate.touch()
    wait_committed(worker, 3)


def test_bad_input_39_slow_clients_hold_up_neither_tasks_nor_probes(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    name = topic()
    worker = start_worker(kafka.bootstrap, name)
    worker.wait_ready()
    place = urlsplit(worker.url)
    address = (place.hostname or "", place.port or 0)
    slow = [socket.create_connection(address, timeout=10) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(b"G")
        produce(kafka.bootstrap, name, [new("greet", b'{"name": "a"}')] * 1000)
        wait_for(lambda: len(calls.read()) == 1000, 20, "the tasks are done meanwhile")
        wait_for(lambda: _alive(worker), 25, "the port answers when the slow ones were closed, although they stay")
    finally:
        for connection in slow:
            connection.close()


def _alive(worker: WorkerProcess) -> bool:
    try:
        return _ask(worker, "/livez")[0] == 200
    except OSError:
        return False


def test_bad_input_40_unknown_names_make_one_series(kafka: Kafka, topic: MakeTopic, start_worker: StartWorker) -> None:
    name = topic(4)
    count = 5000
    produce(kafka.bootstrap, name, [new(f"name {n}", b"{}", key=b"%d" % n) for n in range(count)])
    worker = start_worker(kafka.bootstrap, name)
    wait_committed(worker, count, 60)
    page = worker.metrics()
    for name_of_metric in (
        "kworker_tasks_dead_lettered_total",
        "kworker_tasks_failed_total",
        "kworker_tasks_succeeded_total",
    ):
        tasks = {labels.partition('"')[2].partition('"')[0] for labels in samples(page, name_of_metric)}
        assert "name 1" not in tasks
        assert len(tasks) <= len(worker.status()["tasks"]) + 1
    assert metric(worker, "kworker_tasks_dead_lettered_total", task="_unknown", reason="unroutable") == count
    assert len(read_all(kafka.bootstrap, f"{name}.dlq")) == count
