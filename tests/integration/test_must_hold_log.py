"""Must hold: what a log holds beside records, and what was there before a worker, stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient

from kit import Broker, Kafka, read_all, wait_for
from kit.trial import Trial, Work


def transact(trial: Trial, work: list[Work], *, abort: bool = False) -> None:
    """Publish these in one transaction. Its marker takes an offset in each partition that it wrote to."""
    producer = Producer({"bootstrap.servers": trial.bootstrap, "transactional.id": trial.topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for one in work:
        record = one.record()
        producer.produce(
            trial.topic,
            record.value,
            record.key,
            record.partition,
            headers=list(record.headers),
            on_delivery=None if abort else _noting(trial, one.id),
        )
    if abort:
        producer.flush(30)  # the aborted records are in the log, for sure
        producer.abort_transaction(30)
    else:
        producer.commit_transaction(30)


def _noting(trial: Trial, id: str) -> Callable[[object, Message], None]:
    def delivered(error: object, message: Message) -> None:
        assert error is None, error
        trial.ledger.places[id] = message.partition() or 0, message.offset() or 0

    return delivered


def ids(trial: Trial) -> list[str]:
    """What a reader of committed records finds in the topic."""
    return [json.loads(message.value() or b"")["id"] for message in read_all(trial.bootstrap, trial.topic)]


def test_markers_aborted_records_and_compaction_gaps_do_not_stop_commits(own_broker: Broker, tmp_path: Path) -> None:
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    with Trial(tmp_path, own_broker.bootstrap, 1, config) as trial:
        versions = [Work(f"{key} v{version}", f"key {key}") for version in range(10) for key in range(30)]
        trial.publish(versions)
        gone = {one.id for one in versions if not one.id.endswith("v9")}
        transact(trial, [Work(f"aborted {n}", f"aborted {n}") for n in range(20)], abort=True)
        transact(trial, [Work(f"committed {n}", f"committed {n}", ms=5, fail=int(n % 7 == 3)) for n in range(50)])

        def compacted() -> bool:
            # A segment is closed by the next record that comes after its time; only closed ones are compacted.
            number = len(trial.ledger.places)
            trial.publish([Work(f"plain {number}", f"plain {number}", dead=number % 3 == 0)])
            return gone.isdisjoint(ids(trial))

        wait_for(compacted, 60, "the compaction")
        transact(trial, [Work(f"aborted {n}", f"aborted {n}") for n in range(20, 40)], abort=True)
        for id in gone:
            del trial.ledger.places[id]
        trial.start("--concurrency", "4")
        trial.finish()
        assert {run.id for run in trial.ledger.runs} == set(ids(trial)) == trial.ledger.places.keys()

        # The worker is at the end; more of the same comes while it runs.
        transact(trial, [Work("a", "a"), Work("b", "b", fail=1)])
        transact(trial, [Work("never", "never")], abort=True)
        trial.publish([Work("c", "c", dead=True)])
        transact(trial, [Work("never again", "never again")], abort=True)
        trial.finish()
        assert {run.id for run in trial.ledger.runs} == trial.ledger.places.keys()


def test_a_topic_that_ends_in_a_transaction_marker_reaches_lag_0(kafka: Kafka, tmp_path: Path) -> None:
    """Also a partition in which there is nothing but an aborted transaction."""
    with Trial(tmp_path, kafka.bootstrap, 2) as trial:
        transact(trial, [Work(f"{n}", partition=0) for n in range(10)])
        transact(trial, [Work("aborted", partition=1)], abort=True)
        trial.start()
        trial.finish()
        assert {partition: offset for partition, (offset, _) in trial.commits.last.committed.items()} == {0: 11, 1: 2}
        assert {run.id for run in trial.ledger.runs} == trial.ledger.places.keys()


def test_what_was_published_before_the_first_worker_is_worked_and_a_missing_dead_letter_topic_is_made(
    kafka: Kafka, tmp_path: Path
) -> None:
    with Trial(tmp_path, kafka.bootstrap, 3) as trial:
        trial.publish(Work(f"{n}", partition=n % 3, dead=n % 10 == 0) for n in range(300))
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        letters = f"{trial.topic}.dlq"
        assert letters not in admin.list_topics(timeout=10).topics
        trial.start()
        trial.finish()
        assert len(admin.list_topics(timeout=10).topics[letters].partitions) == 3
        assert trial.dead() == {f"{n}" for n in range(0, 300, 10)}
        assert len(trial.ledger.runs) == 300
