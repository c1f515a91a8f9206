"""FAULTS.md bad input 30 in threads: records that kill their worker, and workers that are killed without a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faults.bad_records import new
from faults.letters import last
from faults.tasks import work
from faults.worker import Calls, StartWorker
from kit import Kafka, MakeTopic, NewRecord, end_offsets, produce, read_all, wait_for
from kit.records import all_done
from kit.stage import metric
from kit.worker_process import WorkerProcess

STATIC = ("-X", "group.instance.id=the-one")  # the next life need not wait for the session of the last
SUSPECTED = "owners died: these offsets run apart from others"
DONE = "may have killed the last owners is done"


def innocents(count: int, **more: object) -> list[NewRecord]:
    """Over four partitions."""
    return [work(f"innocent {n}", key=b"%d" % n, **more)._replace(partition=n % 4) for n in range(count)]


def ended(worker: WorkerProcess, kafka: Kafka, name: str) -> bool:
    """Whether it died, or all is done."""
    return worker.exit_code is not None or all_done(kafka.bootstrap, name, name)


@pytest.mark.parametrize(
    ("how", "order", "seconds"),
    [
        ("exit", "unordered", 0.0),
        ("segfault", "key", 0.0),
        pytest.param("kill", "unordered", 1.5, marks=pytest.mark.long),
    ],
)
def test_a_record_that_kills_its_worker_is_set_aside_after_three_deaths_of_its_own(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, how: str, order: str, seconds: float
) -> None:
    """One among 200 innocents; the worker is started again each time, as a supervisor does."""
    name = topic(4)
    poison = new("kill", json.dumps({"how": how, "seconds": seconds}).encode(), key=b"poison")
    records = innocents(200)
    records.insert(101, poison._replace(partition=1))
    produce(kafka.bootstrap, name, records)
    lives: list[WorkerProcess] = []
    while not lives or lives[-1].exit_code is not None:
        lives.append(start_worker(kafka.bootstrap, name, "--order", order, *STATIC))
        assert len(lives) <= 8, lives[-2].logged()
        wait_for(lambda: ended(lives[-1], kafka, name), 60, "a death, or the end of the topic")
    deaths = len(lives) - 1
    assert 5 <= deaths <= 6, "two that tell nothing, at most one that leaves a part of fifty, three of its own"
    (letter,) = read_all(kafka.bootstrap, f"{name}.dlq")
    assert (letter.key(), letter.value()) == (poison.key, poison.value)
    assert last(letter, "kworker-reason") == "crashed"
    assert last(letter, "kworker-attempts") == "3"
    assert "died 3 times while it ran this task alone" in last(letter, "kworker-error-message")
    assert calls.counted("end").keys() == {f"innocent {n}" for n in range(200)}
    assert calls.counted("kill")[how] == deaths
    assert [SUSPECTED in life.logged() for life in lives] == [False, False, *[True] * (deaths - 1)]
    assert metric(lives[-1], "kworker_crash_charges_total") == 1
    wait_for(lambda: metric(lives[-1], "kworker_suspect_partitions") == 0, 10, "nothing is suspected any more")
    assert DONE in lives[-1].logged()


@pytest.mark.long
def test_two_records_that_kill_are_found_one_after_the_other(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    name = topic(4)
    records = innocents(100)
    for number, place in ((1, 40), (2, 60)):
        records.insert(place, new("kill", b'{"how": "exit"}', key=b"poison %d" % number)._replace(partition=number))
    produce(kafka.bootstrap, name, records)
    lives = 0
    worker = None
    while worker is None or worker.exit_code is not None:
        lives += 1
        assert lives <= 13
        started = worker = start_worker(kafka.bootstrap, name, *STATIC)
        wait_for(lambda: ended(started, kafka, name), 60, "a death, or the end of the topic")  # noqa: B023 - called now
    letters = read_all(kafka.bootstrap, f"{name}.dlq")
    assert {letter.key() for letter in letters} == {b"poison 1", b"poison 2"}
    assert {last(letter, "kworker-reason") for letter in letters} == {"crashed"}
    assert calls.counted("end").keys() == {f"innocent {n}" for n in range(100)}


def test_plain_kills_blame_nobody_and_speed_comes_back(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, tmp_path: Path
) -> None:
    """Slow heads in each partition, so that nothing is committed between two kills; then a burst, at full speed."""
    name, gate = topic(4), tmp_path / "go on"
    heads = [work(f"head {n}", until=str(gate))._replace(partition=n) for n in range(4)]
    produce(kafka.bootstrap, name, [*heads, *innocents(40)])
    for life in (1, 2):
        worker = start_worker(kafka.bootstrap, name, *STATIC)
        wait_for(lambda: sum(calls.counted("start")[f"head {n}"] for n in range(4)) == 4 * life, 30, "the heads run")  # noqa: B023 - called now
        wait_for(lambda: len(calls.counted("end")) == 40, 30, "what is behind them is done")
        worker.kill9()
        assert sum(end_offsets(kafka.bootstrap, name).values()) == 44
    worker = start_worker(kafka.bootstrap, name, *STATIC)
    wait_for(lambda: SUSPECTED in worker.logged(), 30, "two kills in a row are suspicious")
    gate.touch()
    wait_for(lambda: all_done(kafka.bootstrap, name, name), 30, "all is done")
    wait_for(lambda: metric(worker, "kworker_suspect_partitions") == 0, 30, "nothing is suspected any more")
    together = 10
    marks = [tmp_path / f"running {n}" for n in range(together)]
    produce(
        kafka.bootstrap,
        name,
        [
            new("meet", json.dumps({"mine": str(marks[n]), "all": [str(mark) for mark in marks]}).encode())._replace(
                partition=n % 4
            )
            for n in range(together)
        ],
    )
    wait_for(lambda: all_done(kafka.bootstrap, name, name), 30, "so many that wait for each other run at once")
    assert read_all(kafka.bootstrap, f"{name}.dlq") == []
