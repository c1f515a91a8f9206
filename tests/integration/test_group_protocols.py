"""The group: both protocols, static members, hand-overs, where a partition starts, and which topics are meant."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    NewPartitions,
)

from kit import Kafka, wait_for
from kit.stage import DEADLINE, Stage, metric, owned

CLASSIC: dict[str, str] = {}
CONSUMER = {"group.protocol": "consumer"}
SOON = {"topic.metadata.refresh.interval.ms": "500"}
both = pytest.mark.parametrize("protocol", [CLASSIC, CONSUMER], ids=["classic", "consumer"])


@pytest.fixture
def stage(tmp_path: Path, kafka: Kafka) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


# -- the hand-over ------------------------------------------------------------------------------------------------


@both
def test_a_second_worker_takes_partitions_over_without_a_second_run(stage: Stage, protocol: dict[str, str]) -> None:
    """What runs of a partition that moves is waited for; what runs of one that stays is not disturbed."""
    topic = stage.topic(2)
    first = stage.start(topics=[topic], kafka=protocol)
    for partition in (0, 1):
        stage.publish(topic, "hold", [partition], partition)
        stage.publish(topic, "note", range(100 * (partition + 1), 100 * (partition + 1) + 50), partition)
    stage.wait_noted("began", [0, 1], first)
    stage.wait_noted("ran", [*range(100, 150), *range(200, 250)], first)
    second = stage.start(topics=[topic], kafka=protocol)
    stage.wait(lambda: metric(first, "kworker_rebalances_total", event="revoked") > 0, "a revoke", first, second)
    assert owned(second) == set()
    stage.let_go()
    stage.wait(lambda: len(owned(second)) == 1, "a partition of its own", first, second)
    stage.wait(lambda: len(owned(first)) == 1, "one partition left", first, second)
    assert owned(first) | owned(second) == {(topic, 0), (topic, 1)}
    for partition in (0, 1):
        stage.publish(topic, "note", [1000 + partition], partition)
    stage.wait_noted("ran", [1000, 1001], first, second)
    stage.wait_all_committed(topic, first, second)
    assert set(stage.numbers("ran").values()) == {1}
    assert set(stage.numbers("began").values()) == {1}
    assert {noted.pid for noted in stage.noted() if noted.n >= 1000} == {first.pid, second.pid}
    assert metric(first, "kworker_tasks_abandoned_total") == 0
    for worker in (first, second):
        worker.terminate()
        assert worker.wait() == 0


@both
def test_a_revoke_that_costs_too_long_abandons_what_runs(stage: Stage, protocol: dict[str, str]) -> None:
    topic = stage.topic(2)
    first = stage.start("--revoke-timeout", "500ms", topics=[topic], kafka=protocol)
    for partition in (0, 1):
        stage.publish(topic, "hold", [partition], partition)
        stage.publish(topic, "note", [100 + partition], partition)
    stage.wait_noted("began", [0, 1], first)
    stage.wait_noted("ran", [100, 101], first)
    second = stage.start("--revoke-timeout", "500ms", topics=[topic], kafka=protocol)
    stage.wait(lambda: metric(first, "kworker_tasks_abandoned_total") == 1, "one abandoned task", first, second)
    stage.wait(lambda: len(owned(second)) == 1, "a partition of its own", first, second)
    ((_, moved),) = owned(second)
    stage.wait(lambda: stage.numbers("began")[moved] == 2, "its second run", first, second)
    stage.wait_noted("cancelled", [moved], first, second)
    assert stage.numbers("began")[1 - moved] == 1
    stage.let_go()
    stage.wait_all_committed(topic, first, second)
    stage.wait(lambda: metric(first, "kworker_late_results_total") == 1, "the late result", first, second)
    assert stage.numbers("ran") == {moved: 2, 1 - moved: 1, 100: 1, 101: 1}  # the finished note was not forgotten
    assert metric(first, "kworker_tasks_succeeded_total") + metric(second, "kworker_tasks_succeeded_total") == 4


# -- static members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["-9", "SIGTERM"])
def test_a_static_member_comes_back_to_what_it_had_finished(stage: Stage, how: str) -> None:
    """Its session is far longer than this test: only the same member can be given the partition so soon."""
    topic = stage.topic()
    static = {"group.instance.id": "first", "session.timeout.ms": "300000"}
    arguments = ("--drain-timeout", "0s")
    worker = stage.start(*arguments, topics=[topic], kafka=static)
    stage.publish(topic, "hold", [0])
    stage.publish(topic, "note", range(1, 101))
    stage.wait_noted("ran", range(1, 101), worker)
    stage.wait(lambda: stage.finished(topic) == [1, 101], "the finished offsets in the metadata", worker)
    worker.signal(signal.SIGKILL if how == "-9" else signal.SIGTERM)
    assert worker.wait() == (-signal.SIGKILL if how == "-9" else 4)
    again = stage.start(*arguments, topics=[topic], kafka=static)
    stage.wait(lambda: stage.numbers("began")[0] == 2, "the second run of the first task", again)
    stage.let_go()
    stage.wait_all_committed(topic, again)
    assert stage.numbers("ran") == dict.fromkeys(range(101), 1)
    assert [noted.attempt for noted in stage.noted() if noted.event == "began"] == [1, 1]


def test_of_two_static_members_of_one_name_the_older_is_fenced_and_ends(stage: Stage) -> None:
    topic = stage.topic()
    static = {"group.instance.id": "same"}
    first = stage.start(topics=[topic], kafka=static)
    stage.wait(lambda: owned(first), "its partition", first)
    second = stage.start(topics=[topic], kafka=static)
    assert first.wait() == 3
    (line,) = (line for line in first.logged().splitlines() if "fatal: consumer: " in line)
    assert "fenced by other consumer with same group.instance.id" in line
    stage.wait(lambda: owned(second), "the partition", second)
    stage.publish(topic, "note", [1])
    stage.wait_noted("ran", [1], second)


def test_of_two_static_members_of_one_name_the_newer_ends_in_the_consumer_protocol(stage: Stage) -> None:
    topic = stage.topic()
    static = {"group.instance.id": "same", **CONSUMER}
    first = stage.start(topics=[topic], kafka=static)
    stage.wait(lambda: owned(first), "its partition", first)
    second = stage.start(topics=[topic], kafka=static)
    assert second.wait() == 3
    (line,) = (line for line in second.logged().splitlines() if "fatal: consumer: " in line)
    assert "The instance ID is still used by another member in the consumer group" in line
    stage.publish(topic, "note", [1])
    stage.wait_noted("ran", [1], first)


# -- where a partition starts -------------------------------------------------------------------------------------


def test_a_new_group_runs_what_was_there_before_it(stage: Stage) -> None:
    topic = stage.topic(2)
    stage.publish(topic, "note", range(20))
    worker = stage.start(topics=[topic])
    stage.wait_noted("ran", range(20), worker)
    stage.wait_all_committed(topic, worker)


def test_from_latest_starts_behind_what_was_there_and_then_loses_nothing(stage: Stage) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(10))
    static = {"group.instance.id": "first"}  # it gets its partition back at once
    worker = stage.start("--from", "latest", topics=[topic], kafka=static)
    stage.wait(lambda: stage.progress(topic) == {0: (10, [])}, "the start to be committed", worker)
    worker.kill9()
    stage.publish(topic, "note", range(10, 15))  # nobody reads now
    again = stage.start("--from", "latest", topics=[topic], kafka=static)
    stage.publish(topic, "note", range(15, 20))
    stage.wait_noted("ran", range(10, 20), again)
    stage.wait_all_committed(topic, again)
    assert stage.numbers("ran") == dict.fromkeys(range(10, 20), 1)


def test_from_latest_loses_nothing_of_a_partition_that_is_added(stage: Stage) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(10))
    worker = stage.start("--from", "latest", topics=[topic])
    stage.wait(lambda: stage.progress(topic) == {0: (10, [])}, "the start to be committed", worker)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    admin.create_partitions([NewPartitions(topic, 2)])[topic].result(10)
    stage.publish(topic, "note", range(10, 15), 1)  # before anybody can have been given it
    stage.wait_noted("ran", range(10, 15), worker)
    assert stage.numbers("ran") == dict.fromkeys(range(10, 15), 1)


def test_a_committed_offset_beyond_the_end_is_counted_as_loss_and_goes_on_at_the_earliest(stage: Stage) -> None:
    topic = stage.topic(2)
    stage.publish(topic, "note", range(10), 0)
    with Consumer({"bootstrap.servers": stage.bootstrap, "group.id": stage.group}) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, 500)], asynchronous=False)
    worker = stage.start(topics=[topic])
    stage.wait(lambda: metric(worker, "kworker_offset_loss_total", topic=topic) == 490, "the loss", worker)
    stage.wait_noted("ran", range(10), worker)
    stage.publish(topic, "note", range(10, 20), 0)
    stage.publish(topic, "note", range(20, 30), 1)
    stage.wait_noted("ran", range(30), worker)
    stage.wait_all_committed(topic, worker)
    assert stage.numbers("ran") == dict.fromkeys(range(30), 1)
    (line,) = (line for line in worker.logged().splitlines() if "does not have the next offset" in line)
    assert f"topic={topic} partition=0 next=500 lost=490 start=0" in line


def test_records_that_were_deleted_before_they_were_read_are_counted_as_loss(stage: Stage) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(10))
    first = stage.start(topics=[topic])
    stage.wait_all_committed(topic, first)
    first.terminate()
    assert first.wait() == 0
    stage.publish(topic, "note", range(10, 40))
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 25)]).values():
        future.result(10)
    again = stage.start(topics=[topic])
    stage.wait_noted("ran", range(25, 40), again)
    stage.wait_all_committed(topic, again)
    assert metric(again, "kworker_offset_loss_total", topic=topic) == 15
    assert stage.numbers("ran") == dict.fromkeys([*range(10), *range(25, 40)], 1)


def test_a_topic_made_anew_under_a_worker_is_read_from_its_start(stage: Stage) -> None:
    """Its log is longer than the old one before the worker looks: its consumer goes on at the old offset."""
    topic = stage.topic()
    stage.publish(topic, "note", range(20))
    worker = stage.start(topics=[topic])
    stage.wait_all_committed(topic, worker)
    worker.freeze()
    stage.renew(topic, worker)
    stage.publish(topic, "note", range(100, 150))
    worker.thaw()
    stage.wait_noted("ran", range(100, 150), worker)
    stage.wait_all_committed(topic, worker)
    assert "deleted and made anew" in worker.logged()
    worker.terminate()
    assert worker.wait() == 0


# -- which topics --------------------------------------------------------------------------------------------------


@both
def test_a_regular_expression_means_new_topics_and_never_dead_letters_or_topics_of_ours(
    stage: Stage, protocol: dict[str, str]
) -> None:
    unique = uuid.uuid4().hex[:8]
    meant, dead, own, internal = (
        f"orders.{unique}",
        f"orders.{unique}.dlq",
        f"kworker.orders.{unique}",
        f"__orders.{unique}",
    )
    for number, name in enumerate((meant, dead, own, internal)):
        stage.topic(name=name)
        stage.publish(name, "note", [number])
    worker = stage.start("--topic", rf"^.*orders\.{unique}.*", kafka=protocol | SOON)
    stage.wait_noted("ran", [0], worker)
    stage.publish(meant, "fail", [1])  # its dead letter goes to a topic that the expression would match
    stage.wait(lambda: metric(worker, "kworker_tasks_dead_lettered_total") == 1, "a dead letter", worker)
    new = stage.topic(2, f"orders.{unique}.new")
    stage.publish(new, "note", range(10, 20))
    stage.wait_noted("ran", range(10, 20), worker)
    assert owned(worker) == {(meant, 0), (new, 0), (new, 1)}
    assert set(stage.numbers("ran")) == {0, *range(10, 20)}
    assert metric(worker, "kworker_tasks_dead_lettered_total") == 1


@both
def test_partitions_that_are_added_are_read_from_their_beginning(stage: Stage, protocol: dict[str, str]) -> None:
    topic = stage.topic()
    worker = stage.start(topics=[topic], kafka=protocol | SOON)
    stage.wait(lambda: owned(worker) == {(topic, 0)}, "its partition", worker)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    wait_for(lambda: len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == 3, 10, "the partitions")
    for partition in (1, 2):
        stage.publish(topic, "note", [partition], partition)
    stage.wait_noted("ran", [1, 2], worker)
    stage.wait(lambda: len(owned(worker)) == 3, "all partitions", worker)


# -- groups of others -------------------------------------------------------------------------------------------------


def test_a_group_whose_members_share_in_another_way_is_told_and_joined_when_they_are_gone(stage: Stage) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", [1])
    other = Consumer(
        {"bootstrap.servers": stage.bootstrap, "group.id": stage.group, "partition.assignment.strategy": "range"}
    )
    other.subscribe([topic])
    try:
        wait_for(lambda: other.poll(0.1) or other.assignment(), DEADLINE, "the other member's partition")
        worker = stage.start(topics=[topic])
        stage.wait(
            lambda: "nconsistent group protocol" in worker.logged() or other.poll(0.1), "a line in the log", worker
        )
        status, text = worker.get("/readyz")
        assert (status, "group: not joined yet" in text) == (503, True)
    finally:
        other.close()
    stage.wait_noted("ran", [1], worker)


@both
def test_a_member_that_is_given_nothing_is_ready(stage: Stage, protocol: dict[str, str]) -> None:
    """A rolling update with more workers than partitions waits for it. It takes over when the other goes."""
    topic = stage.topic(1)
    workers = [stage.start(topics=[topic], kafka=protocol) for _ in range(2)]
    stage.wait(lambda: all(worker.ready() for worker in workers), "both are ready", *workers)
    stage.wait(lambda: sorted(len(owned(worker)) for worker in workers) == [0, 1], "one has it", *workers)
    busy, idle = sorted(workers, key=lambda worker: len(owned(worker)), reverse=True)
    busy.terminate()
    assert busy.wait() == 0
    stage.publish(topic, "note", [1])
    stage.wait_noted("ran", [1], idle)
    assert idle.ready()
