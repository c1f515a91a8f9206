"""FAULTS.md "Faults" 27, 28, 31, 32 and 33: crashes around a commit, gaps in the log, a stuck head, a broken fetch."""

from __future__ import annotations

import json
from pathlib import Path

from confluent_kafka import Producer

from faults.bad_records import new
from faults.letters import last
from faults.tasks import Tasks, Watch, ids, work
from faults.worker import Calls, StartWorker, wait_committed
from kit import Kafka, MakeTopic, committed, create_topic, end_offsets, produce, read_all, wait_for
from kit.stage import metric
from kworker.core.metadata import Alphabet, capacity, decode


def test_fault_27_crash_between_a_dead_letter_and_its_commit(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker
) -> None:
    """The dead-letter topic may hold two of the same origin, never none."""
    poison = [new("nobody", b"poison %d" % n) for n in range(5)]
    places = produce(kafka.bootstrap, tasks.topic, poison)
    dead = f"{tasks.topic}.dlq"
    create_topic(kafka.bootstrap, dead)
    worker = start_worker(kafka.bootstrap, tasks.topic, "--commit-interval", "60s")
    wait_for(lambda: end_offsets(kafka.bootstrap, dead) == {0: 5}, 20, "the dead letters are written")
    worker.kill9()
    assert sum(offset for offset, _ in committed(kafka.bootstrap, tasks.topic, tasks.topic).values()) == 0
    wait_committed(start_worker(kafka.bootstrap, tasks.topic), 5)
    origins = [last(letter, "kworker-origin") for letter in read_all(kafka.bootstrap, dead)]
    assert sorted(origins) == sorted([f"{tasks.topic}/{partition}/{offset}" for partition, offset in places] * 2)


def test_fault_28_crash_between_success_and_commit(kafka: Kafka, tasks: Tasks, start_worker: StartWorker) -> None:
    """Everything done since the last commit runs once more, and no more than once."""
    tasks.publish(ids(200))
    with Watch(tasks):
        worker = start_worker(kafka.bootstrap, tasks.topic, "--commit-interval", "60s")
        wait_for(tasks.all_ended, 20, "all are done")
        worker.kill9()
        assert not tasks.remembered()
        tasks.after_a_kill()
        wait_committed(start_worker(kafka.bootstrap, tasks.topic), 200)
    tasks.check()
    assert set(tasks.ended().values()) == {2}


def test_fault_31_transaction_markers_aborted_records_and_compaction_gaps(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    """The committed offset reaches the end of the log, over gaps and a marker behind the last record."""
    name = topic(1, {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"})
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(20)
    for round in range(6):
        producer.begin_transaction()
        for n in range(50):
            record = work(f"{round} {n}", key=b"%d" % (n % 10 if round % 3 else n))
            producer.produce(name, record.value, record.key, headers=list(record.headers))
        if round % 2:
            producer.flush(20)
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
        if round == 3:  # compaction needs a segment that is closed: a record that comes later does that
            wait_for(lambda: _rolled_and_compacted(kafka, name), 60, "the log has gaps of compaction")
    worker = start_worker(kafka.bootstrap, name)
    wait_committed(worker, end_offsets(kafka.bootstrap, name)[0])
    wait_for(lambda: metric(worker, "kworker_consumer_lag") == 0, 10, "no lag is left")
    readable = {json.loads(message.value() or b"")["id"] for message in read_all(kafka.bootstrap, name)}
    assert calls.counted("end").keys() >= readable
    assert all(int(id.split()[0]) % 2 == 0 for id in calls.counted("start") if id[0].isdigit())
    assert set(calls.counted("end").values()) == {1}


def _rolled_and_compacted(kafka: Kafka, topic: str) -> bool:
    produce(kafka.bootstrap, topic, [work(f"roller {end_offsets(kafka.bootstrap, topic)}", key=b"roller")])
    offsets = [message.offset() or 0 for message in read_all(kafka.bootstrap, topic)]
    return len({offset for offset in offsets if offset < 50}) < 50


def test_fault_32_the_window_behind_a_slow_head_fills(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, tmp_path: Path
) -> None:
    """The others go on until what is done above the head is as much as a commit's metadata holds; then it pauses."""
    name, gate, count = topic(), tmp_path / "gate", 60_000
    tiny = new("greet", b'{"name":""}', key=None)
    produce(kafka.bootstrap, name, [work("head", until=str(gate)), *[tiny] * count])
    worker = start_worker(kafka.bootstrap, name)
    wait_for(lambda: calls.counted("start"), 20, "the head runs")
    wait_for(lambda: metric(worker, "kworker_paused_partitions") == 1, 60, "its partition pauses")
    wait_for(lambda: metric(worker, "kworker_tasks_in_flight") == 1, 30, "all that was fetched is done")
    (partition,) = worker.status()["assignment"]
    assert 10_000 < partition["finished_above"] <= capacity(Alphabet.WIDE)
    wait_for(lambda: _remembered(kafka, name) == partition["finished_above"], 10, "all of it is in the metadata")
    offset, metadata = committed(kafka.bootstrap, name, name)[0]
    assert offset == 0
    assert len(metadata) <= 3500
    assert metric(worker, "kworker_metadata_truncated_total") == 0
    assert metric(worker, "kworker_tasks_in_flight") == 1
    gate.touch()
    wait_committed(worker, count + 1, 60)
    counted = calls.counted("greet")
    assert len(counted) == count
    assert set(counted.values()) == {1}
    assert metric(worker, "kworker_paused_partitions") == 0


def _remembered(kafka: Kafka, topic: str) -> int:
    found = committed(kafka.bootstrap, topic, topic).get(0)
    if found is None:
        return 0
    intervals = decode(found[1], found[0])
    assert intervals is not None
    bounds = intervals.bounds
    return sum(end - start for start, end in zip(bounds[::2], bounds[1::2], strict=True))
