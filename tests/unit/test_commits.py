"""What is committed and when, and back-pressure: the parts of the engine that hold a partition's progress."""

from __future__ import annotations

import pytest

from kworker.core.actions import Action, CommitItem, Pause, Resume
from kworker.core.commits import Commits
from kworker.core.mark import ALIVE
from kworker.core.metadata import Alphabet, Intervals, capacity, decode, encode
from kworker.core.partition import Partition
from kworker.core.pressure import Pressure
from kworker.task import TopicPartition

PLACE = TopicPartition("tasks", 0)


def partition(start: int = 0, restored: tuple[int, ...] = (), epoch: int = 1) -> Partition:
    return Partition(PLACE, epoch, start, Intervals(restored), None, "tasks.dlq")


def worked(some: Partition, opened: range, *finished: int) -> Partition:
    some.tracker.open_all(list(opened))
    for offset in finished:
        some.tracker.finish(offset)
        some.changes += 1
    return some


def answer(commits: Commits, some: Partition, error: str | None = None, epoch: int | None = None) -> None:
    commits.answered({PLACE: some}, [(PLACE, some.epoch if epoch is None else epoch, error)])


def test_nothing_new_is_nothing_to_commit() -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), partition()
    assert commits.on_tick([some], 5.0) == []
    some.tracker.open_all([0, 1])
    assert commits.on_tick([some], 6.0) == []
    assert commits.due == 7.0


def test_a_stuck_head_moves_only_its_metadata() -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), worked(partition(), range(4), 1)
    first = commits.on_tick([some], 0.0)
    answer(commits, some)
    some.tracker.finish(3)
    some.changes += 1
    second = commits.on_tick([some], 1.0)
    assert [item.offset for item in first + second] == [0, 0]
    assert [decode(item.metadata, 0) for item in first + second] == [Intervals([1, 2]), Intervals([1, 2, 3, 4])]


def test_it_waits_for_its_interval_and_for_the_last_answer() -> None:
    commits, some = Commits(2.0, Alphabet.WIDE), worked(partition(), range(9), 0)
    assert commits.on_tick([some], 10.0)
    worked(some, range(9, 10), 1)
    assert commits.on_tick([some], 11.9) == []
    assert commits.on_tick([some], 900.0) == [], "the answer to the first might be taken for the second's"
    assert commits.unanswered_since == 10.0
    answer(commits, some)
    assert commits.unanswered_since is None
    assert [item.offset for item in commits.on_tick([some], 902.0)] == [2]


@pytest.mark.parametrize("error", [None, "UNKNOWN_MEMBER_ID"])
def test_only_an_acknowledged_commit_is_done(error: str | None) -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), worked(partition(), range(2), 0)
    item = CommitItem(PLACE, 1, 1, encode(1, (), mark=ALIVE.packed())[0])
    assert commits.on_tick([some], 0.0) == [item]
    answer(commits, some, error)
    assert commits.ask([some], 0.5) == [], "what was refused is not asked for before the next tick"
    assert commits.on_tick([some], 1.0) == ([] if error is None else [item])
    assert (some.committed, some.refused) == ((1, 0) if error is None else (None, 1))
    assert commits.results == ({"ok": 1, "error": 0} if error is None else {"ok": 0, "error": 1})


def test_what_is_finished_while_a_commit_is_on_its_way_is_committed_next() -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), worked(partition(), range(3), 0)
    commits.on_tick([some], 0.0)
    worked(some, range(3, 4), 1)
    answer(commits, some)
    assert [item.offset for item in commits.on_tick([some], 1.0)] == [2]


def test_an_answer_to_an_earlier_epoch_is_not_this_ones() -> None:
    commits, old = Commits(1.0, Alphabet.WIDE), worked(partition(), range(2), 0)
    commits.on_tick([old], 0.0)
    new = worked(partition(epoch=2), range(2), 0)
    answer(commits, new, epoch=1)
    assert new.changed
    assert new.committed is None
    answer(commits, new, epoch=7)
    assert new.changed


def test_without_metadata_only_the_offset_travels() -> None:
    commits, some = Commits(1.0, None), worked(partition(), range(5), 0, 2, 4)
    assert commits.on_tick([some], 0.0) == [CommitItem(PLACE, 1, 1, "")]


def test_a_fenced_partition_is_not_committed() -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), worked(partition(), range(2), 0)
    some.fenced = True
    assert commits.on_tick([some], 0.0) == commits.last_items([some]) == []


def test_a_partition_whose_commits_are_refused_does_not_hide_behind_others() -> None:
    commits = Commits(1.0, Alphabet.WIDE)
    good, bad = partition(), Partition(TopicPartition("tasks", 1), 1, 0, Intervals(), None, "tasks.dlq")
    for tick in range(3):
        worked(good, range(tick, tick + 1), tick)
        worked(bad, range(tick, tick + 1), tick)
        commits.on_tick([good, bad], float(tick))
        results = [(PLACE, 1, None), (bad.topic_partition, 1, "GROUP_AUTHORIZATION_FAILED")]
        commits.answered({PLACE: good, bad.topic_partition: bad}, results)
    assert (good.refused, bad.refused) == (0, 3)


def test_what_an_earlier_owner_finished_stays_in_the_metadata_until_it_came_again() -> None:
    commits, some = Commits(1.0, Alphabet.WIDE), partition(5, (6, 8, 10, 20))
    some.tracker.open_all([5, 6])
    some.tracker.finish(6)
    some.changes += 1
    (item,) = commits.items([some])
    assert (item.offset, decode(item.metadata, 5)) == (5, Intervals([6, 8, 10, 20]))
    some.tracker.open_all([7, 8, 9, 10])
    some.tracker.finish(7)
    (item,) = commits.items([some])
    assert decode(item.metadata, 5) == Intervals([6, 8, 11, 20]), "10 came again and is not finished yet"


def test_finished_offsets_that_do_not_fit_are_counted() -> None:
    commits, some = Commits(1.0, Alphabet.ASCII), partition()
    most = 2 * capacity(Alphabet.ASCII)
    worked(some, range(most), *range(1, most, 2))
    commits.items([some])
    assert commits.truncated == 1


# -- ages -----------------------------------------------------------------------------------------------------------


def test_the_age_of_the_oldest_is_that_of_its_batch() -> None:
    some = partition()
    assert some.oldest_since() is None
    for first, at in ((0, 100.0), (10, 101.0), (20, 102.0)):
        some.marks.append((first, at))
        some.tracker.open_all(list(range(first, first + 10)))
    assert some.oldest_since() == 100.0
    for offset in range(12):
        some.tracker.finish(offset)
    some.forget_marks()
    assert some.oldest_since() == 101.0
    for offset in range(12, 30):
        some.tracker.finish(offset)
    some.forget_marks()
    assert some.oldest_since() is None
    assert len(some.marks) == 1


# -- back-pressure ----------------------------------------------------------------------------------------------------


class Intake:
    """A partition whose records are added and finished one by one; what was asked for is in `actions`."""

    def __init__(self, pressure: Pressure, assigned: int = 4) -> None:
        self.pressure = pressure
        self.assigned = assigned
        self.partition = partition()
        self.actions: list[Action] = []

    def add(self, records: int, size: int = 0, step: int = 1) -> None:
        start = self.partition.tracker.next
        self.partition.tracker.open_all(list(range(start + step - 1, start + records * step, step)))
        self.pressure.add(self.partition, records, records * size)
        self.pressure.grown(self.partition, self.assigned, self.actions)

    def finish(self, offset: int, size: int = 0) -> None:
        self.partition.tracker.finish(offset)
        self.pressure.remove(self.partition, 1, size)
        self.pressure.shrunk(self.assigned, self.actions)


@pytest.mark.parametrize("assigned", [2, 3, 1000])
def test_a_partition_may_take_half_of_the_room_and_goes_on_at_half_of_that(assigned: int) -> None:
    some = Intake(Pressure(200, 2**40, Alphabet.WIDE), assigned)
    some.add(100)
    assert some.actions == []
    some.add(1)
    assert some.actions == [Pause([PLACE])]
    for offset in range(51):
        some.finish(offset)
    assert some.actions == [Pause([PLACE])]
    some.finish(51)
    assert some.actions == [Pause([PLACE]), Resume([PLACE])]
    assert some.pressure.room == 200 - 49


def test_partitions_that_are_stuck_leave_room_however_many_they_are() -> None:
    pressure = Pressure(1000, 2**40, Alphabet.WIDE)
    stuck = [Intake(pressure, assigned=9) for _ in range(8)]
    for some in stuck:
        some.partition.topic_partition = TopicPartition("tasks", stuck.index(some))
        while not some.actions:
            some.add(1)
        assert pressure.room > 0
    free = Intake(pressure, assigned=9)
    free.partition.topic_partition = TopicPartition("tasks", 8)
    free.add(pressure.room)
    assert free.actions == [], "the last one may have all that is left"


def test_the_only_partition_may_take_all_of_the_room() -> None:
    some = Intake(Pressure(200, 2**40, Alphabet.WIDE), assigned=1)
    some.add(200)
    assert (some.actions, some.pressure.room) == ([], 0)


def test_bytes_count_like_records() -> None:
    some = Intake(Pressure(10**6, 200_000, Alphabet.WIDE))
    some.add(3, size=40_000)
    assert some.actions == [Pause([PLACE])]
    assert some.pressure.room > 0
    some.add(7, size=40_000)
    assert (some.pressure.room, some.pressure.room_bytes) == (0, 0)
    for offset in range(10):
        some.finish(offset, size=40_000)
    assert some.pressure.unfinished_bytes == 0
    assert some.actions[-1] == Resume([PLACE])


@pytest.mark.parametrize("alphabet", [*Alphabet, None])
def test_a_stuck_head_pauses_before_its_metadata_is_full(alphabet: Alphabet | None) -> None:
    some = Intake(Pressure(10**6, 2**40, alphabet), assigned=1)
    room = capacity(alphabet or Alphabet.WIDE)
    while not some.actions:
        start = some.partition.tracker.next
        some.add(1000)
        for offset in range(start + 1, start + 1000, 2):
            some.finish(offset)
        assert some.partition.tracker.next < room
    assert some.partition.tracker.next > room // 2
    commits = Commits(1.0, alphabet)
    some.partition.changes = 1
    (item,) = commits.items([some.partition])
    assert commits.truncated == 0
    assert item.offset == 0
    for offset in range(0, some.partition.tracker.next, 2):
        some.finish(offset)
    assert some.actions == [Pause([PLACE]), Resume([PLACE])]


def test_a_failing_forward_keeps_it_paused() -> None:
    some = Intake(Pressure(200, 2**40, Alphabet.WIDE))
    some.add(101)
    some.partition.failing.add(object())  # type: ignore[arg-type]  # only whether there is one counts
    for offset in range(101):
        some.finish(offset)
    assert some.actions == [Pause([PLACE])]
    some.partition.failing.clear()
    some.pressure.settle(some.partition, some.actions)
    assert some.actions == [Pause([PLACE]), Resume([PLACE])]
