"""The world around an engine in a test: logs, the group's coordinator, and what is true of each assignment.

It is written from the promises, not from the engine: a second, slower and simpler account of the same facts, which
the machine (engine_machine.py) compares with what the engine does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tenacity import wait_fixed

from kit.memory import MemoryRecord
from kworker.core.delayed import ATTEMPT, Delayed, retried, retry_topic
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.mark import Mark, unpacked
from kworker.core.metadata import decode, read
from kworker.core.ready import Order
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.task import Failed, Headers, Outcome, Publication, Reason, TopicPartition

TASKS, MAIL = "tasks", "mail"
RETRIES = TopicPartition(retry_topic("kworker", "g"), 0)
PLACES = [TopicPartition(TASKS, 0), TopicPartition(TASKS, 1), TopicPartition(MAIL, 0), RETRIES]
DEAD_LETTERS = {TASKS: "tasks.dlq", MAIL: "mail-dead"}
DEFAULT_TASK = {TASKS: None, MAIL: "plain", RETRIES.topic: None}
IN_MEMORY, IN_LANE = 30.0, 60.0
"""Longer retries go to the delay log; how long one may hold its lane up."""

SLOTS = {"thread": 3, "coroutine": 2}
LIMITS: dict[str, int | None] = {"plain": None, "rare": 1, "light": None, "shy": 1}
EXECUTORS = {"plain": "thread", "rare": "thread", "light": "coroutine", "shy": "coroutine"}
ATTEMPTS = {"plain": 3, "rare": 2, "light": 8, "shy": 3}
FIXED_WAIT = {"rare": 7.0}
JITTER = 0.5
MOST_DEATHS = 3
WALL = 1_764_000_000.0  # seconds since the epoch when engine time was 0

DEADLY = "deadly"
"""A record of the task `plain` that ends the process as soon as it runs."""

KINDS: dict[str, tuple[Headers, Reason | None]] = {
    "plain": ([("ce_type", b"plain"), ("ce_id", b"1")], None),
    "rare": ([("task", b"rare")], None),
    "light": ([("ce_type", b"light")], None),
    "shy": ([("task", b"shy"), ("kworker-attempt", b"99"), ("kworker-origin", b"elsewhere/0/0")], None),
    DEADLY: ([("ce_type", b"plain")], None),
    "anonymous": ([], Reason.UNROUTABLE),  # where the topic has no default task
    "unknown": ([("ce_type", b"../plain")], Reason.UNROUTABLE),
    "late": ([("ce_type", b"plain"), ("ce_deadline", b"year 287168")], Reason.UNDECODABLE),
    "garbled": ([("ce_type", b"pl\xffin")], Reason.UNDECODABLE),
}
"""What a record may be, and the reason it is set aside for before it runs."""


def routes() -> dict[str, Route]:
    return {
        name: Route(
            name,
            EXECUTORS[name],
            RetryPolicy(ATTEMPTS[name], wait_fixed(FIXED_WAIT[name]) if name in FIXED_WAIT else None),
            LIMITS[name],
        )
        for name in EXECUTORS
    }


def wait_of(name: str, outcome: Outcome, attempt: int) -> float:
    """The documented wait before the next attempt."""
    if isinstance(outcome, Failed) and outcome.after is not None:
        return outcome.after
    if name in FIXED_WAIT:
        return FIXED_WAIT[name]
    return min(300.0, 2.0 ** (attempt - 1)) * (1 - JITTER / 4)


class LogRecord(MemoryRecord):
    """A record with what should become of it: `task` is the name it runs as, `bad` why it cannot.

    first: where it was read first, and its own headers; attempt: the number of its first attempt here.
    """

    __slots__ = ("attempt", "bad", "deadly", "first", "own", "task")

    def __init__(self, place: TopicPartition, offset: int, kind: str, key: bytes | None, size: int) -> None:
        headers, bad = KINDS[kind]
        super().__init__(offset, headers, key, b"x" * size, place.partition, place.topic)
        default = DEFAULT_TASK[place.topic]
        self.deadly = kind == DEADLY
        self.task: str | None = "plain" if self.deadly else kind if kind in EXECUTORS else None
        self.bad: Reason | None = bad
        if kind == "anonymous" and default is not None:
            self.task, self.bad = default, None
        if place == RETRIES:  # not written by kworker
            self.task, self.bad = None, Reason.UNDECODABLE
        self.first: tuple[TopicPartition, int] = (place, offset)
        self.own, self.attempt = headers, 1

    def again(self, place: TopicPartition, offset: int, task: Delayed) -> LogRecord:
        """The same as it comes back from the delay log."""
        record = LogRecord(place, offset, "plain", None, 0)
        record.headers_given, record.key_given, record.value_given = task.headers, task.key, task.value
        record.task, record.bad, record.deadly = self.task, self.bad, self.deadly
        record.first, record.own = self.first, self.own
        info, own = retried(task.headers)
        assert info is not None, f"retry: it tells nothing of itself, {ATTEMPT} and others are missing"
        assert info.place() == self.first, f"retry: it says that it came from {info.origin}"
        assert own == self.own, "retry: its own headers have changed"
        record.attempt = info.attempt
        return record

    def lane(self, order: Order) -> bytes | None:
        """What it must run in order with, None for nothing: a record that cannot run waits for nothing."""
        if self.bad is not None or order == "unordered":
            return None
        return b"" if order == "partition" else self.key_given


class Log:
    """One partition's log. Offsets without a record are markers, aborted records or what compaction took."""

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.records: dict[int, LogRecord] = {}
        self.end = 0

    def append(self, kind: str, key: bytes | None, size: int) -> None:
        self.records[self.end] = LogRecord(self.place, self.end, kind, key, size)
        self.end += 1

    def append_again(self, record: LogRecord, task: Delayed) -> None:
        self.records[self.end] = record.again(self.place, self.end, task)
        self.end += 1

    def gap(self, length: int) -> None:
        self.end += length


@dataclass(frozen=True)
class Stored:
    """What the coordinator holds for one partition."""

    offset: int
    metadata: str
    finished: frozenset[int]

    @property
    def mark(self) -> Mark:
        """What the metadata says of the owners."""
        found = read(self.metadata, self.offset)
        return unpacked(found[1]) if found else Mark()


@dataclass(eq=False)
class Attempt:
    """One entry handed to an executor and not reported or given back: it holds a slot."""

    entry: Entry
    run: int
    executor: str
    epoch: Epoch
    begun: bool = False

    @property
    def deadly(self) -> bool:
        """Whether it ends the process when it begins; where nothing is remembered it would do so for ever."""
        return self.epoch.remembers and self.epoch.log.records[self.entry.offset].deadly


@dataclass(eq=False)
class Epoch:
    """One assignment of one partition, as it should be. Offsets are those of records."""

    log: Log
    start: int
    restored: frozenset[int]  # finished by an earlier owner
    acknowledged: tuple[int, frozenset[int]] | None  # (committable, finished above it) that the group has
    remembers: bool  # the broker keeps commit metadata
    next: int = 0
    position: int = 0  # where the intake reads on
    open: dict[int, LogRecord] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    running: dict[int, Attempt] = field(default_factory=dict)
    retrying: dict[int, float] = field(default_factory=dict)  # offset -> due
    forwards: dict[int, set[Forward]] = field(default_factory=dict)  # not acknowledged
    failing: set[Forward] = field(default_factory=set)
    leaving: bool = False
    fenced: bool = False
    lives: int = 0  # of owners, with this one, as its mark counts them
    named: int | None = None  # the record that the group believes to run alone, by a commit of this epoch
    condemned: set[int] = field(default_factory=set)  # killed its owners too often

    def __post_init__(self) -> None:
        self.next = self.position = self.start

    @property
    def place(self) -> TopicPartition:
        return self.log.place

    @property
    def committable(self) -> int:
        return min(self.open, default=self.next)

    @property
    def finished_above(self) -> frozenset[int]:
        """Every record above the committable offset that is known to be finished, by us or by an earlier owner."""
        least = self.committable
        return frozenset(offset for offset in self.finished | self.restored if offset >= least)

    @property
    def snapshot(self) -> tuple[int, frozenset[int]]:
        return self.committable, self.finished_above

    @property
    def changed(self) -> bool:
        """True if a commit would tell the group something: of a gap before an open record it need not know."""
        if self.acknowledged is None:
            return True
        committed, finished = self.acknowledged
        between = {offset for offset in self.log.records if committed <= offset < self.committable} - finished
        above = {offset for offset in finished if offset >= self.committable}
        told = above == self.finished_above or not self.remembers
        return bool(between) or not told or (not self.open and committed != self.next)

    @property
    def busy(self) -> bool:
        """Something runs, or waits for the broker; what the broker refused last time is not waited for."""
        return bool(self.running) or any(forwards - self.failing for forwards in self.forwards.values())

    def deliver(self, record: LogRecord, deaths: int) -> bool:
        """A record reaches the engine; True if it is new and to be worked. deaths: of owners while it ran alone."""
        offset = record.offset()
        if self.leaving or offset < self.next:
            return False
        self.next = offset + 1
        if offset in self.restored:
            self.finished.add(offset)
            return False
        self.open[offset] = record
        self.attempts[offset] = record.attempt + deaths
        if record.bad is None and deaths >= MOST_DEATHS:
            self.condemned.add(offset)
        return True

    def finish(self, offset: int) -> None:
        del self.open[offset]
        self.finished.add(offset)

    def eligible(self, order: Order, crowd: dict[str, int]) -> list[LogRecord]:
        """Records that wait for nothing but a slot; `crowd`: attempts that hold one, by task."""
        if self.leaving:
            return []
        taken: set[bytes] = set()
        found = []
        for offset in sorted(self.open):
            record = self.open[offset]
            if record.task is None or record.bad is not None or offset in self.condemned:
                continue
            lane = record.lane(order)
            if lane is not None:
                if lane in taken:
                    continue
                taken.add(lane)
            limit = LIMITS[record.task]
            if offset in self.running or offset in self.retrying or offset in self.forwards:
                continue
            if limit is None or crowd.get(record.task, 0) < limit:
                found.append(record)
        return found


def decoded(text: str, base: int, log: Log) -> frozenset[int]:
    """The records that commit metadata says are finished."""
    intervals = decode(text, base)
    assert intervals is not None, "metadata of our own does not decode"
    return frozenset(offset for offset in log.records if offset in intervals)


def publications(count: int) -> tuple[Publication, ...]:
    return tuple(Publication("results", None, b"%d" % number, []) for number in range(count))
