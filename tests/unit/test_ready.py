"""The ready queue by example: lanes, limits, slots, and what leaves. The machine tries every order of them."""

from __future__ import annotations

from kworker.core.entry import Entry
from kworker.core.metadata import Intervals
from kworker.core.partition import Partition
from kworker.core.ready import Order, ReadyQueue
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.task import Task, TopicPartition

POLICY = RetryPolicy()


def partition(number: int = 0) -> Partition:
    return Partition(TopicPartition("tasks", number), 1, 0, Intervals(), None, "tasks.dlq")


def entry(of: Partition, offset: int, key: bytes | None = None, route: Route | None = None) -> Entry:
    task = Task("mail", "tasks", of.topic_partition.partition, offset, key, b"", [], 0)
    return Entry(task, of, route or Route("mail", "thread", POLICY), 0.0)


def queue(order: Order = "unordered") -> ReadyQueue:
    return ReadyQueue(order, ["thread", "coroutine"])


def take(some: ReadyQueue, most: int = 99, executor: str = "thread") -> list[int]:
    return [entry.task.offset for entry in some.take(executor, most)]


def test_first_come_first_served_as_far_as_there_are_slots() -> None:
    some, place = queue(), partition()
    some.arrive_all([entry(place, offset, b"k") for offset in range(5)])
    assert some.waiting("thread") == 5
    assert take(some, 2) == [0, 1]
    assert take(some, 9) == [2, 3, 4]
    assert take(some, 9) == []


def test_each_executor_has_its_own_queue() -> None:
    some, place = queue(), partition()
    light = Route("light", "coroutine", POLICY)
    some.arrive_all([entry(place, 0), entry(place, 1, route=light)])
    assert take(some, executor="coroutine") == [1]
    assert take(some) == [0]


def test_a_key_is_one_at_a_time_and_others_go_on() -> None:
    some, place = queue("key"), partition()
    entries = [entry(place, offset, key) for offset, key in enumerate([b"a", b"a", b"b", None, b"a", None, b""])]
    some.arrive_all(entries)
    assert take(some) == [0, 2, 3, 5, 6], "a null key has no order, an empty one has"
    some.release_lanes([entries[0]])
    assert take(some) == [1]
    some.release_lanes([entries[1]])
    assert take(some) == [4]
    some.release_lanes([entries[4]])
    assert b"a" not in place.lanes, "a lane costs nothing when it is empty"


def test_the_same_key_in_two_partitions_is_two_lanes() -> None:
    some, first, second = queue("key"), partition(0), partition(1)
    some.arrive_all([entry(first, 0, b"a"), entry(second, 1, b"a")])
    assert take(some) == [0, 1]


def test_a_partition_is_one_at_a_time_whatever_the_keys() -> None:
    some, place = queue("partition"), partition()
    entries = [entry(place, offset, key) for offset, key in enumerate([b"a", None, b"b"])]
    some.arrive_all(entries)
    assert take(some) == [0]
    some.release_lanes([entries[0]])
    assert take(some) == [1]


def test_a_retry_keeps_its_lane() -> None:
    some, place = queue("key"), partition()
    first, second = entry(place, 0, b"a"), entry(place, 1, b"a")
    some.arrive_all([first, second])
    assert take(some) == [0]
    some.admit(first)  # its retry is due; the lane was never released
    assert take(some) == [0]
    some.release_lanes([first])
    assert take(some) == [1]


def test_a_limit_holds_and_passes_on() -> None:
    some, place = queue(), partition()
    rare = Route("rare", "thread", POLICY, limit=2)
    entries = [entry(place, offset, route=rare) for offset in range(4)]
    some.arrive_all([*entries, entry(place, 9)])
    assert take(some) == [0, 1, 9]
    some.release_limit(entries[0])
    assert take(some) == [2]
    some.release_limit(entries[1])
    some.release_limit(entries[2])
    assert take(some) == [3]
    some.release_limit(entries[3])
    assert rare.admitted == 0


def test_what_leaves_never_starts_and_gives_its_limit_back() -> None:
    some, leaving, staying = queue(), partition(0), partition(1)
    rare = Route("rare", "thread", POLICY, limit=1)
    some.arrive_all([entry(leaving, 0, route=rare), entry(leaving, 1, route=rare), entry(staying, 2, route=rare)])
    some.arrive_all([entry(leaving, 3), entry(staying, 4)])
    leaving.leaving = True
    some.leave(leaving)
    assert take(some, 9) == [4, 2], "each once, and the one that waited for the limit too"
    assert take(some, 9) == []
    assert rare.admitted == 1


def test_a_lane_that_leaves_is_gone() -> None:
    some, place = queue("key"), partition()
    some.arrive_all([entry(place, 0, b"a"), entry(place, 1, b"a")])
    place.leaving = True
    some.leave(place)
    assert take(some) == []
    assert not place.lanes
