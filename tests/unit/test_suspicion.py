"""The crash record by example: what starts when, and what the group must know before. The machine tries every order."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from msgspec import defstruct

from kit.memory import MemoryRecord
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.mark import FIRST_LEASE, Mark, unpacked
from kworker.core.metadata import LIMIT, Alphabet, Intervals, decode, encode, read
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.task import SUCCESS, ErrorInfo, Failed, Outcome, TopicPartition

PLACE, OTHER = TopicPartition("tasks", 0), TopicPartition("tasks", 1)
FAILED = Failed(ErrorInfo("ValueError", "item 7"))
DIED_ONCE, DIED_TWICE = Mark(1), Mark(2, FIRST_LEASE)
WALL = 1_764_000_000.0
OLD_FIELDS: list[tuple[str, Any, Any]] = [
    ("lives", int, 0),
    ("lease", int, 0),
    ("alone", int | None, None),
    ("since", int, 0),
    ("deaths", dict[int, tuple[int, ...]], msgspec.field(default_factory=dict)),
]
"""Of the mark as it was first."""


class Life:
    """One worker's life; what its group knows is in `stored`, and goes on to the next by `Life(stored)`."""

    def __init__(self, stored: dict[TopicPartition, tuple[int, str]] | None = None) -> None:
        routes = {
            "mail": Route("mail", "thread", RetryPolicy(9)),
            "light": Route("light", "coroutine", RetryPolicy(2)),
            "heavy": Route("heavy", "process", RetryPolicy(2)),
        }
        slots = {"thread": 4, "coroutine": 4, "process": 4}
        self.engine = Engine(EngineSettings("g", "w", slots), routes, lambda: 0.0)
        self.stored = stored if stored is not None else {}
        self.now = 0.0
        self.started: dict[int, Entry] = {}
        self.sent: list[Forward] = []
        self.asked: list[do.Commit] = []
        self.said: list[do.Action] = []
        self.last: list[do.CommitItem] = []

    def tell(self, event: on.Event) -> None:
        for action in self.engine.handle(event, self.now):
            if isinstance(action, do.Start):
                self.started |= {entry.task.offset: entry for entry in action.entries}
            elif isinstance(action, do.Send):
                self.sent += action.forwards
            elif isinstance(action, do.Commit):
                self.asked.append(action)
            elif isinstance(action, do.Suspected | do.Cleared):
                self.said.append(action)
            elif isinstance(action, do.Released | do.Drained):
                self.last += action.commit

    def assign(self, mark: Mark | None = None, *, place: TopicPartition = PLACE, end: int | None = None) -> None:
        """As the intake does it: the mark of this life is stored before anything else."""
        if mark is not None:
            self.stored[place] = 0, encode(0, (), mark=mark.packed())[0]
        offset, metadata = self.stored.get(place, (0, ""))
        finished, stored = read(metadata, offset) or (Intervals(), b"")
        begun = unpacked(stored).begun(offset, finished, end)
        self.stored[place] = offset, encode(offset, finished.bounds, mark=begun.packed())[0]
        self.tell(on.Assigned([on.Assignment(place, offset, offset, metadata, end=end)]))

    def poll(self, *offsets: int, task: bytes = b"mail", place: TopicPartition = PLACE) -> None:
        records = [MemoryRecord(offset, [("task", task)], None, b"{}", place.partition) for offset in offsets]
        self.tell(on.Polled(list(records), WALL + self.now))

    def end(self, offset: int, outcome: Outcome = SUCCESS) -> None:
        entry = self.started.pop(offset)
        self.tell(on.Finished([(entry, entry.run, outcome, 0.0, 0.0)], WALL + self.now))

    def take(self) -> None:
        """The coordinator takes the commit that is on its way."""
        (commit,) = self.asked
        self.asked.clear()
        self.stored |= {item.topic_partition: (item.offset, item.metadata) for item in commit.items}
        self.tell(on.Committed([(item.topic_partition, item.epoch, None) for item in commit.items]))

    def refuse(self) -> None:
        (commit,) = self.asked
        self.asked.clear()
        self.tell(on.Committed([(item.topic_partition, item.epoch, "REBALANCE") for item in commit.items]))

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.tell(on.Tick())

    def mark(self, place: TopicPartition = PLACE) -> Mark:
        offset, metadata = self.stored[place]
        found = read(metadata, offset)
        assert found is not None
        return unpacked(found[1])


# -- the mark ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alphabet", Alphabet)
@pytest.mark.parametrize(
    "bounds", [[], [51, 53], [51, 2000], [bound for n in range(51, 9000, 3) for bound in (n, n + 1)]]
)
def test_a_mark_travels_with_what_is_finished(alphabet: Alphabet, bounds: list[int]) -> None:
    mark = Mark(3, 2**62, 2**62 - 1, int(WALL), {50 + n: (int(WALL),) * 3 for n in range(8)})
    text, complete = encode(50, bounds, alphabet, mark.packed())
    assert complete
    assert len(text) <= LIMIT
    assert decode(text, 50) == Intervals(bounds)
    assert read(text, 50) == (Intervals(bounds), mark.packed())
    assert unpacked(mark.packed()) == mark
    assert read(text, 51) is None


def test_a_worker_that_knows_no_mark_sees_what_it_saw_before() -> None:
    """What it reads is a length, and so many bytes: the mark is behind them."""
    bare, _ = encode(50, [51, 60], Alphabet.ASCII)
    marked, _ = encode(50, [51, 60], Alphabet.ASCII, DIED_TWICE.packed())
    assert _payload(marked).startswith(_payload(bare))
    assert read(bare, 50) == (Intervals([51, 60]), b"")


def _payload(text: str) -> bytes:
    data = text.removeprefix("kw1a")
    return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))


@pytest.mark.parametrize("data", [b"\x00", b"\xff" * 9, b"\x95\x03", b"\xa3abc"])
def test_what_is_no_mark_says_nothing(data: bytes) -> None:
    assert unpacked(data) == Mark()


def test_where_nothing_is_to_be_read_nothing_can_have_killed_anybody() -> None:
    assert DIED_TWICE.begun(7, Intervals(), end=7) == Mark(1)
    assert DIED_TWICE.begun(7, Intervals(), end=8) == Mark(3, 7 + FIRST_LEASE, first=8)


def test_deaths_of_what_is_finished_are_forgotten() -> None:
    mark = Mark(3, 40, 6, 9, {2: (1,), 4: (2, 3), 5: (4,)})
    assert mark.begun(4, Intervals([5, 6]), None).deaths == {4: (2, 3), 6: (9,)}


# -- one death --------------------------------------------------------------------------------------------------------


def test_after_one_death_nothing_waits_and_nobody_is_suspected() -> None:
    life = Life()
    life.assign(DIED_ONCE)
    life.poll(*range(4))
    assert life.started.keys() == {0, 1, 2, 3}
    assert life.said == life.asked == []


def test_after_one_death_the_group_knows_how_far_starts_may_go() -> None:
    life = Life()
    life.assign(DIED_ONCE)
    beyond = FIRST_LEASE + 5
    life.poll(0, beyond)
    assert life.started.keys() == {0}
    life.refuse()
    assert not life.asked, "it is asked for again on a tick"
    life.tick()
    life.take()
    assert life.started.keys() == {0, beyond}
    assert life.mark().lease > beyond


def test_a_partition_that_lives_is_watched_no_longer() -> None:
    life = Life()
    life.assign(DIED_ONCE)
    for offset in range(FIRST_LEASE):
        life.poll(offset)
        life.end(offset)
    life.tick()
    life.take()
    assert life.mark() == Mark(2, FIRST_LEASE)
    life.tick(60.0)
    life.tick()
    life.take()
    assert life.mark() == Mark(1)
    life.poll(10 * FIRST_LEASE)
    assert life.started.keys() == {10 * FIRST_LEASE}
    assert not life.asked


# -- two deaths -------------------------------------------------------------------------------------------------------


def test_after_two_deaths_each_runs_alone_and_is_named_before() -> None:
    life = Life()
    life.assign(DIED_TWICE, end=3)
    life.poll(0, 1)
    life.poll(2, task=b"light")
    for offset in range(3):
        assert not life.started
        life.take()
        assert life.started.keys() == {offset}
        assert (life.mark().alone, life.mark().since) == (offset, int(WALL))
        life.end(offset)
    life.take()
    assert life.mark().alone is None
    assert life.said == [do.Suspected(PLACE, 0, 3, 2, None, 0)]
    life.tell(on.EndReached(PLACE, 3))
    life.tick()
    assert life.said[1:] == [do.Cleared(PLACE)]


def test_a_refused_name_is_asked_for_again_and_nothing_runs_meanwhile() -> None:
    life = Life()
    life.assign(DIED_TWICE, end=1)
    life.tick(0.0)
    life.poll(0)
    life.refuse()
    life.tick(0.5)
    assert not life.asked
    life.tick(0.5)
    assert not life.started
    life.take()
    assert life.started.keys() == {0}


def test_what_is_no_suspect_waits_only_while_one_is_ready() -> None:
    life = Life()
    life.assign(place=OTHER)
    life.poll(0, 1, place=OTHER)
    life.assign(DIED_TWICE, end=1)
    life.poll(0)
    life.poll(2, 3, place=OTHER)
    assert life.started.keys() == {0, 1}, "those of the other partition"
    assert not life.asked, "nothing is named while something else runs"
    life.end(0)
    life.end(1)
    life.take()
    assert life.started[0].partition.topic_partition == PLACE
    life.end(0, FAILED)
    life.take()
    assert life.started.keys() == {2, 3}, "the suspect waits for its retry, and they for nobody"


def test_attempts_in_other_processes_run_beside() -> None:
    life = Life()
    life.assign(DIED_TWICE, end=3)
    life.poll(0)
    life.poll(1, 2, task=b"heavy")
    assert life.started.keys() == {1, 2}
    life.take()
    assert life.started.keys() == {0, 1, 2}


def test_a_revoke_hands_the_suspicion_over_and_names_nobody() -> None:
    life = Life()
    life.assign(Mark(2, FIRST_LEASE, 0, 5, {0: (3,)}))
    life.poll(0)
    life.take()
    life.tell(on.Revoked([PLACE], 10.0))
    life.end(0, FAILED)
    (item,) = life.last
    found = read(item.metadata, item.offset)
    assert found is not None
    assert unpacked(found[1]) == Mark(2, FIRST_LEASE, deaths={0: (3, 5)}, first=FIRST_LEASE)


def test_a_life_that_ends_well_leaves_no_mark() -> None:
    life = Life()
    life.assign()
    assert life.mark() == Mark(1)
    life.tell(on.StopRequested(10.0))
    assert [(item.offset, item.metadata) for item in life.last] == [(0, "")]


def test_after_three_deaths_of_its_own_it_is_set_aside() -> None:
    stored: dict[TopicPartition, tuple[int, str]] = {}
    for deaths in range(5):
        life = Life(stored)
        life.assign(end=2)
        life.poll(0, 1)
        if deaths >= 2:
            life.take()
        assert 0 in life.started
        assert life.started[0].attempt == (1 if deaths < 3 else deaths - 1)
    life = Life(stored)
    life.assign(end=2)
    life.poll(0, 1)
    (forward,) = life.sent
    headers = dict(forward.publication.headers)
    assert headers["kworker-reason"] == b"crashed"
    assert headers["kworker-attempts"] == b"3"
    assert b"died 3 times while it ran this task alone, started at 2025-11-24T" in (
        headers["kworker-error-message"] or b""
    )
    assert life.engine.suspicion.charges == 1, "the others were charged by earlier lives"
    life.take()
    assert life.started.keys() == {1}, "the others go on"


# -- many suspects ----------------------------------------------------------------------------------------------------


def test_many_suspects_run_together_in_parts_each_when_the_last_has_ended() -> None:
    life = Life()
    life.assign(Mark(2, 80), end=100)
    life.poll(*range(100))
    assert (life.mark().first, life.mark().lease) == (0, 10)
    for part in range(8):
        first = 10 * part
        assert set(life.started) <= set(range(first, first + 10)), "slots, and nothing beyond the part"
        for offset in range(first, first + 10):
            assert not life.asked
            life.end(offset)
        life.take()
        assert life.mark().first == first + 10
    assert set(life.started) == {80, 81, 82, 83}
    assert (life.mark().first, life.mark().alone) == (80, None)
    assert life.said == [do.Suspected(PLACE, 0, 80, 2, None, 0)]
    life.tick()
    assert life.said[1:] == [do.Cleared(PLACE)]


def test_a_suspect_that_comes_back_after_its_part_runs_alone() -> None:
    life = Life()
    life.assign(Mark(2, 16), end=16)
    life.poll(*range(16))
    life.end(0, FAILED)
    life.end(1)
    life.take()
    assert life.started.keys() == {2, 3}
    life.tick(400.0)
    assert life.started.keys() == {2, 3}, "nothing is named while something else runs"
    life.end(2)
    life.end(3)
    life.take()
    assert life.started.keys() == {0}
    assert life.mark().alone == 0


@pytest.mark.parametrize("killer", [0, 17, 350, 399])
def test_deaths_narrow_four_hundred_suspects_down_to_one(killer: int) -> None:
    """Two that tell nothing, two that leave a part, three of its own; the others are done, and nobody else is named."""
    stored: dict[TopicPartition, tuple[int, str]] = {}
    deaths, named = 0, set()
    while True:
        life = Life(stored)
        life.assign(Mark(2, 400) if deaths == 2 else None, end=400)
        life.poll(*range(int(life.engine.partitions[PLACE].tracker.next), 400))
        while killer not in life.started and not life.sent:
            for offset in [*life.started]:
                life.end(offset)
            if life.mark().alone is not None and not life.asked:
                life.tick()
            while life.asked:
                life.take()
            life.tick(0.1)
            while life.asked:
                life.take()
        if life.sent:
            break
        deaths += 1
        if life.mark().alone is not None:
            named.add(life.mark().alone)
    assert (deaths, named) == (7, {killer})
    assert life.engine.suspicion.charges == 1


def test_a_worker_of_before_reads_the_mark_and_suspects_all_below_the_lease() -> None:
    old = defstruct("Mark", [(name, type, default) for name, type, default in OLD_FIELDS], array_like=True)
    told = Mark(3, 40, 6, 9, {2: (1,)}, 30)
    found = msgspec.msgpack.decode(told.packed(), type=old)
    assert msgspec.structs.astuple(found) == (3, 40, 6, 9, {2: (1,)})
    assert unpacked(msgspec.msgpack.encode(found)) == Mark(3, 40, 6, 9, {2: (1,)})
    assert Mark(3, 40, 6, 9).begun(5, Intervals(), 50).first == 40, "and what it named runs alone here too"


# -- kills while an innocent runs alone --------------------------------------------------------------------------------


def killed_while_it_ran_alone(stored: dict[TopicPartition, tuple[int, str]], mark: Mark | None = None) -> Life:
    """A life of which nothing is told but that 0 ran alone."""
    life = Life(stored)
    life.assign(mark, end=2)
    life.poll(0, 1)
    life.take()
    assert life.started.keys() == {0}
    return life


def test_kills_charge_an_innocent_only_while_it_is_unfinished() -> None:
    stored: dict[TopicPartition, tuple[int, str]] = {}
    killed_while_it_ran_alone(stored, DIED_TWICE)
    life = killed_while_it_ran_alone(stored)
    assert life.started[0].attempt == 2
    assert not life.sent, "two kills set nothing aside"
    life.end(0)
    life.take()
    assert life.mark().alone == 1
    life = Life(stored)
    life.assign()
    assert life.mark().deaths.keys() == {1}, "0 is finished, and forgotten"


def test_a_clean_end_between_kills_charges_nobody_and_a_partition_that_lives_forgets_all() -> None:
    stored: dict[TopicPartition, tuple[int, str]] = {}
    killed_while_it_ran_alone(stored, DIED_TWICE)
    for _ in range(3):
        life = killed_while_it_ran_alone(stored)
        life.tell(on.StopRequested(life.now + 10.0))
        life.end(0, FAILED)
        stored |= {item.topic_partition: (item.offset, item.metadata) for item in life.last}
        assert {offset: len(times) for offset, times in life.mark().deaths.items()} == {0: 1}
    life = killed_while_it_ran_alone(stored)
    for offset in (0, 1):
        life.end(offset)
        life.take()
    life.tick()
    life.tick(60.0)
    life.take()
    assert life.mark() == Mark(1)


def test_what_is_handed_over_in_the_middle_of_the_parts_is_all_that_was_suspected() -> None:
    life = Life()
    life.assign(Mark(2, 80), end=100)
    life.poll(*range(100))
    assert life.mark() == Mark(3, 10)
    life.tell(on.Revoked([PLACE], 10.0))
    for offset in [*life.started]:
        life.end(offset)
    (item,) = life.last
    found = read(item.metadata, item.offset)
    assert found is not None
    assert unpacked(found[1]) == Mark(2, 80)


def test_a_gap_of_any_length_is_parted_without_a_look_at_each_offset() -> None:
    ends = Mark(2, 10**15).parts(0, Intervals(), None)
    assert len(ends) == 8
    assert ends == sorted(ends)
    assert ends[-1] == 10**15
