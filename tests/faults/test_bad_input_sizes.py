"""FAULTS.md "Bad input" 17 and 18: records at the broker's limit, and batches that are small only while compressed."""

from __future__ import annotations

import random

from confluent_kafka import Producer

from faults.bad_records import new
from faults.letters import headers_of, last
from faults.worker import Calls, StartWorker, wait_committed
from kit import Kafka, MakeTopic, create_topic, produce, read_all, wait_for

MIB = 1024 * 1024
LIMIT = 100_000


def _largest(kafka: Kafka, topic: str) -> bytes:
    """The largest value that cannot be compressed and that this topic takes, as the source's limit allows."""
    return random.Random(18).randbytes(LIMIT - 200)


def test_bad_input_18_a_record_of_the_largest_size_fits_with_its_error(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker
) -> None:
    name = topic(1, {"max.message.bytes": str(LIMIT)})
    record = new("big.failure", _largest(kafka, name), ("content-type", b"application/octet-stream"))
    produce(kafka.bootstrap, name, [record, new("greet", b'{"name": "good"}')])
    wait_committed(start_worker(kafka.bootstrap, name), 2)
    (letter,) = read_all(kafka.bootstrap, f"{name}.dlq")
    headers = headers_of(letter)
    assert (letter.key(), letter.value()) == (record.key, record.value)
    assert headers[:2] == list(record.headers)
    found = dict(headers)
    assert found["kworker-reason"] == b"exhausted"
    assert "kworker-error-stack" in found
    assert "kworker-truncated" not in found


def test_bad_input_18_where_it_does_not_fit_the_value_is_cut(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    """A dead-letter topic with the limit of its source: first the error shrinks, then the value goes."""
    name = topic(1, {"max.message.bytes": str(LIMIT)})
    create_topic(kafka.bootstrap, f"{name}.dlq", 1, {"max.message.bytes": str(LIMIT)})
    smaller = random.Random(1).randbytes(LIMIT - 2500)
    octets = ("content-type", b"application/octet-stream")
    records = [
        new("big.failure", _largest(kafka, name), octets),
        new("big.failure", smaller, octets),
        new("big.failure", b"small", octets, *((f"h{n}", random.Random(n).randbytes(900)) for n in range(110))),
        new("big.failure", b"small", octets, key=_largest(kafka, name)),
    ]
    produce(kafka.bootstrap, name, [*records, new("greet", b'{"name": "good"}')])
    wait_committed(start_worker(kafka.bootstrap, name), len(records) + 1)
    letters = {last(letter, "kworker-origin"): letter for letter in read_all(kafka.bootstrap, f"{name}.dlq")}
    whole, fits, headed, keyed = (letters[f"{name}/0/{offset}"] for offset in range(4))
    found = dict(headers_of(whole))
    assert (whole.key(), whole.value()) == (records[0].key, b"")
    assert found["kworker-truncated"] == str(len(records[0].value or b"")).encode()
    assert found["ce_type"] == b"big.failure"
    found = dict(headers_of(fits))
    assert fits.value() == smaller
    assert "kworker-truncated" not in found
    assert "kworker-error-stack" not in found
    found = dict(headers_of(headed))
    assert found["kworker-reason"] == b"exhausted"
    assert found["kworker-truncated"] == b"5"
    found = dict(headers_of(keyed))
    assert found["kworker-truncated"] == b"5"
    assert (records[3].key or b"").startswith(keyed.key() or b"-")
    assert calls.counted("greet")


def test_bad_input_18_many_that_fit_one_by_one_are_not_cut(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker
) -> None:
    """The broker's limit is one of batches: dead letters that are written together must not be refused for it."""
    name = topic(1, {"max.message.bytes": str(LIMIT)})
    octets = ("content-type", b"application/octet-stream")
    records = [new("nobody", random.Random(n).randbytes(40_000), octets) for n in range(30)]
    produce(kafka.bootstrap, name, records)
    wait_committed(start_worker(kafka.bootstrap, name), len(records))
    letters = read_all(kafka.bootstrap, f"{name}.dlq")
    assert sorted(letter.value() or b"" for letter in letters) == sorted(record.value or b"" for record in records)


def test_bad_input_17_a_compressed_batch_bomb(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    """A batch is inflated as a whole, whatever the limits say: it costs its size about twice, and passes."""
    name = topic(1, {"max.message.bytes": str(MIB)})
    worker = start_worker(kafka.bootstrap, name)
    produce(kafka.bootstrap, name, [new("greet", b'{"name": "warm"}')])
    wait_committed(worker, 1)
    before = worker.resident("VmRSS")
    count, size = 50, 3 * MIB
    _bomb(kafka, name, count, b'{"name": "' + b"a" * size + b'"}', "gzip")
    produce(kafka.bootstrap, name, [new("greet", b'{"name": "good"}')])
    wait_committed(worker, count + 2, 60)
    peak = worker.resident("VmHWM") - before
    print(f"{count * size // MIB} MiB in one batch: peak {peak // MIB} MiB over {before // MIB} MiB")
    assert peak < 3 * count * size
    wait_for(lambda: worker.resident("VmRSS") < before + 50 * MIB, 20, "the memory is given back")
    assert len(calls.read()) == count + 2
    worker.terminate()
    assert worker.wait(20) == 0


def test_bad_input_17_a_batch_beyond_the_clients_limit_is_told_and_not_skipped(
    kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls
) -> None:
    """librdkafka inflates zstd up to receive.message.max.bytes: the partition waits and says so, the worker lives."""
    name = topic(1, {"max.message.bytes": str(MIB)})
    count = 40
    _bomb(kafka, name, count, b'{"name": "' + b"a" * 3 * MIB + b'"}', "zstd")
    worker = start_worker(kafka.bootstrap, name)
    wait_for(lambda: f"partition {name}/0 cannot be read: Decompression" in worker.get("/readyz")[1], 20, "it says so")
    assert worker.get("/livez")[0] == 200
    worker.terminate()
    assert worker.wait(20) == 0
    worker = start_worker(kafka.bootstrap, name, "-X", "receive.message.max.bytes=300000000")
    wait_committed(worker, count, 60)
    assert worker.get("/readyz")[0] == 200


def _bomb(kafka: Kafka, topic: str, count: int, value: bytes, compression: str) -> None:
    """One batch that is small on the wire and in the log."""
    settings: dict[str, str | int | float | bool] = {
        "bootstrap.servers": kafka.bootstrap,
        "linger.ms": 10_000,
        "compression.type": compression,
        "message.max.bytes": 900_000_000,
        "batch.size": 900_000_000,
        "batch.num.messages": count,
    }
    producer = Producer(settings)
    for _ in range(count):
        producer.produce(topic, value, headers=[("task", b"greet")])
    assert producer.flush(60) == 0
