"""FAULTS.md bad input 30 in threads: records that kill their worker, and workers that are killed by others."""

from __future__ import annotations

import json
import time

import pytest

from faults.bad_records import new
from faults.letters import last
from faults.tasks import work
from faults.worker import Calls, StartWorker
from kit import Kafka, MakeTopic, committed, end_offsets, produce, read_all, wait_for
from kworker.core.metadata import decode

SESSION = ("-X", "session.timeout.ms=6000", "-X", "group.instance.id=the-one")  # the next life need not wait for it


def lag(kafka: Kafka, name: str) -> int:
    """What of the topic is not done, as its group's commits tell."""
    found = committed(kafka.bootstrap, name, name)
    left = 0
    for partition, end in end_offsets(kafka.bootstrap, name).items():
        offset, metadata = found.get(partition, (0, ""))
        finished = decode(metadata, offset)
        assert finished is not None, metadata
        left += end - offset - sum(b - a for a, b in zip(finished.bounds[::2], finished.bounds[1::2], strict=True))
    return left


@pytest.mark.parametrize(("how", "order"), [("exit", "unordered"), ("segfault", "key")])
def test_a_record_that_kills_its_worker_is_set_aside_after_three_deaths_of_its_own(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls, how: str, order: str
) -> None:
    """One among 200 innocents over four partitions; the worker is started again each time, as a supervisor does."""
    name = topic(4)
    poison = new("kill", json.dumps({"how": how}).encode(), key=b"poison")
    records = [work(f"innocent {n}", key=b"%d" % n)._replace(partition=n % 4) for n in range(200)]
    records.insert(101, poison._replace(partition=1))
    produce(kafka.bootstrap, name, records)
    deaths = 0
    while True:
        began = time.monotonic()
        worker = start_worker(kafka.bootstrap, name, "--order", order, *SESSION)
        wait_for(lambda: worker.exit_code is not None or not lag(kafka, name), 60, "a death, or the end of the topic")
        print(f"life {deaths + 1}: {time.monotonic() - began:.1f} s, code {worker.exit_code}")
        if worker.exit_code is None:
            break
        deaths += 1
        assert deaths <= 6, worker.logged()
    (letter,) = read_all(kafka.bootstrap, f"{name}.dlq")
    assert (letter.key(), letter.value()) == (poison.key, poison.value)
    assert last(letter, "kworker-reason") == "crashed"
    assert last(letter, "kworker-attempts") == "3"
    assert "died 3 times while it ran this task alone" in last(letter, "kworker-error-message")
    assert calls.counted("end").keys() == {f"innocent {n}" for n in range(200)}
    assert calls.counted("kill")[how] == deaths
