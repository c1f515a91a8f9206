"""Must hold: 5,000 random and mutated records through a real worker: none crashes it, each is done or a dead letter.

The records are those of kit/fuzzed_records.py; a hundred thousand of them are decoded in tests/property.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from faults.raw_headers import produce_raw
from kit import Kafka, MakeTopic, produce, read_all, wait_for
from kit.fuzzed_records import OTHERS, PLUGIN, REGISTERED, FuzzedRecords
from kit.records import all_done
from kit.registry import Registry
from kit.stage import metric
from kit.worker_process import WorkerProcess

COUNT = 5_000
SPOILED = 3
"""Records with a header name that is not UTF-8, which the Python client cannot write."""

GROWTH = 50 << 20
REASONS = {"undecodable", "unroutable", "invalid", "expired"}
Place = tuple[int, int]


def done(path: Path) -> Counter[Place]:
    """The places of the records whose task succeeded."""
    return Counter(struct.iter_unpack("<ii", path.read_bytes()))


@pytest.mark.timeout(240)
def test_fuzzed_records_through_a_worker(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    name, replies, ran = topic(2), topic(), tmp_path / "done"
    records = FuzzedRecords(random.Random(seed), replies)
    with Registry() as registry:
        for schema in REGISTERED:
            registry.register(f"{name}-value", json.dumps(schema))
        registry.register("other-value", OTHERS[0])
        given = ["--group", name, "--topic", name, "--bootstrap", kafka.bootstrap, "--plugin", "fuzz"]
        given += ["--schema-registry", registry.url, "--processes", "1", "--reply-topic", replies]
        worker = WorkerProcess(tmp_path / "worker", *given, env={"FUZZ_DONE": str(ran)}, site=[PLUGIN])
        try:
            worker.wait_ready()
            resident = worker.resident()
            published = [records.record() for _ in range(COUNT)]
            places = produce(kafka.bootstrap, name, published)
            for _ in range(SPOILED):
                produce_raw(
                    kafka.bootstrap, name, b'{"n": 1}', b"k", [(b"ce_type", b"fuzz.plain"), (b"\xff\xfe", b"x")]
                )

            def is_over() -> bool:
                assert worker.exit_code is None, worker.logged()[-3000:]
                return all_done(kafka.bootstrap, name, name)

            wait_for(is_over, 120, "a lag of 0")
            grown = worker.resident("VmHWM") - resident
            print(f"resident: {resident >> 20} MiB at first, {grown >> 20} MiB more at most")
            assert grown <= GROWTH
            assert metric(worker, "kworker_children_started_total") == 1, "no child died"
            assert metric(worker, "kworker_threads_lost_total") == 0
            succeeded = metric(worker, "kworker_tasks_succeeded_total")
            worker.terminate()
            assert worker.wait() == 0
        finally:
            worker.close()
    originals = dict(zip(places, published, strict=True))
    reasons: Counter[str] = Counter()
    dead: Counter[Place] = Counter()
    for letter in read_all(kafka.bootstrap, f"{name}.dlq"):
        headers: Any = letter.headers()
        said = dict(headers[-12:])
        _, partition, offset = said["kworker-origin"].decode().rsplit("/", 2)
        place = int(partition), int(offset)
        dead[place] += 1
        reasons[said["kworker-reason"].decode()] += 1
        if place in originals:
            record = originals[place]
            assert (letter.key(), letter.value()) == (record.key, record.value)
            assert tuple(headers[: len(record.headers)]) == record.headers
    print(f"{succeeded:g} done, {dict(reasons)}")
    assert done(ran) + dead == Counter(read_places(kafka, name)), "each once, one or the other"
    assert read_all(kafka.bootstrap, replies), "some asked for a reply, and may"
    assert succeeded == done(ran).total() > COUNT / 5
    assert reasons.keys() <= REASONS
    assert dead.total() >= COUNT / 5


def read_places(kafka: Kafka, topic: str) -> list[Place]:
    """Where the records of a topic are."""
    return [(message.partition() or 0, message.offset() or 0) for message in read_all(kafka.bootstrap, topic)]
