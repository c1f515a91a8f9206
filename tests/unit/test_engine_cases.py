"""The engine by example: what the machine found once, in the fewest steps, and what it is too random to reach."""

from __future__ import annotations

from collections.abc import Sequence

from kit.memory import MemoryRecord
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.metadata import Intervals, decode, encode
from kworker.core.ready import Order
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.task import (
    SUCCESS,
    ErrorInfo,
    Failed,
    Headers,
    Outcome,
    Postponed,
    Publication,
    Reason,
    Record,
    Success,
    TopicPartition,
)

PLACE, OTHER = TopicPartition("tasks", 0), TopicPartition("tasks", 1)
ERROR = ErrorInfo("ValueError", "item 7")
LETTER = "tasks.dlq"


class Run:
    """An engine with what it asked for so far: `started` and not ended, `sent` and not answered."""

    def __init__(self, order: Order = "unordered", slots: int = 4) -> None:
        known = EngineSettings("g", "w", {"thread": slots}, order)
        self.engine = Engine(known, {"mail": Route("mail", "thread", RetryPolicy(2))}, lambda: 0.0)
        self.now = 0.0
        self.started: list[Entry] = []
        self.sent: list[Forward] = []
        self.seen: list[do.Action] = []

    def tell(self, event: on.Event) -> list[do.Action]:
        actions = self.engine.handle(event, self.now)
        for action in actions:
            if isinstance(action, do.Start):
                self.started += action.entries
            elif isinstance(action, do.Send):
                self.sent += action.forwards
        self.seen += actions
        return actions

    def assign(self, place: TopicPartition = PLACE, start: int = 0, metadata: str = "") -> None:
        self.tell(on.Assigned([on.Assignment(place, start, start, metadata)]))

    def poll(
        self, *offsets: int, place: TopicPartition = PLACE, headers: Headers | None = None, key: bytes | None = None
    ) -> None:
        given: Headers = [("task", b"mail")] if headers is None else headers
        records: Sequence[Record] = [MemoryRecord(offset, given, key, b"{}", place.partition) for offset in offsets]
        self.tell(on.Polled(list(records), 1000.0 + self.now))

    def end(self, outcome: Outcome = SUCCESS, index: int = 0) -> list[do.Action]:
        entry = self.started.pop(index)
        return self.tell(on.Finished([(entry, entry.run, outcome, 0.0, 0.0)], 1000.0 + self.now))

    def answer(self, refusal: on.Refusal | None = None) -> list[do.Action]:
        return self.tell(on.Forwarded([(self.sent.pop(0), refusal)]))

    def tick(self, seconds: float) -> list[do.Action]:
        self.now += seconds
        return self.tell(on.Tick())


def only(actions: list[do.Action], kind: type[do.Action]) -> list[do.Action]:
    return [action for action in actions if type(action) is kind]


def test_the_end_of_a_leaving_partition_counts_nothing_as_worked() -> None:
    """A stop, then what the intake had fetched, with the end of the partition behind it: that must run again."""
    run = Run()
    run.assign()
    run.poll(0)
    run.tell(on.StopRequested(10.0))
    run.poll(1, 2, 3)
    run.tell(on.EndReached(PLACE, 4))
    (drained,) = only(run.end(), do.Drained)
    assert isinstance(drained, do.Drained)
    assert [item.offset for item in drained.commit] == [1]


def test_what_an_earlier_owner_finished_survives_a_second_crash() -> None:
    metadata, _ = encode(0, [1, 500])
    run = Run()
    run.assign(metadata=metadata)
    run.poll(0, 1, 2)
    assert [entry.task.offset for entry in run.started] == [0]
    (commit,) = only(run.tick(1.0), do.Commit)
    assert isinstance(commit, do.Commit)
    assert decode(commit.items[0].metadata, 0) == Intervals([1, 500])


def test_each_entry_starts_once_when_another_partition_leaves() -> None:
    run = Run(slots=2)
    run.assign()
    run.assign(OTHER)
    run.poll(0, 1)
    run.poll(0, 1, place=OTHER)
    run.poll(2, 3)
    run.tell(on.Revoked([OTHER], 10.0))
    order = []
    while run.started:
        order.append((run.started[0].task.partition, run.started[0].task.offset))
        run.end()
    assert order == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_second_signal_drains_no_second_time() -> None:
    run = Run()
    assert only(run.tell(on.StopRequested(5.0)), do.Drained)
    assert not only(run.tell(on.StopRequested(0.0)), do.Drained)
    assert run.engine.departure.due is None


def test_a_stop_that_is_over_before_a_revoke_counts_what_is_unfinished_once() -> None:
    run = Run()
    run.assign()
    run.poll(0, 1)
    run.tell(on.Revoked([PLACE], 10.0))
    run.tell(on.StopRequested(0.0))
    run.tick(20.0)
    assert run.engine.pressure.unfinished == 0
    assert run.engine.pressure.unfinished_bytes == 0
    assert run.engine.departure.abandoned == 2


def test_lost_partitions_are_withdrawn_and_cancelled() -> None:
    run = Run()
    run.assign()
    run.poll(0)
    actions = run.tell(on.Revoked([PLACE], 0.0, lost=True))
    assert [type(action) for action in actions] == [do.Withdraw, do.Cancel, do.Released]
    run.end()
    assert run.engine.late_results == 1


def test_retries_of_a_partition_that_is_gone_are_not_kept() -> None:
    run = Run()
    run.assign()
    run.poll(0)
    run.end(Failed(ERROR, 10**6))
    run.tell(on.Revoked([PLACE], 5.0))
    assert run.engine.waiting_retries == 0
    assert run.engine.next_due < 10**6


def test_one_acknowledgement_of_two_does_not_end_a_pause() -> None:
    run = Run()
    run.assign()
    run.poll(0)
    run.end(Success(None, (Publication("a", None, b"", []), Publication("b", None, b"", []))))
    assert only(run.answer(on.Refusal.OTHER), do.Pause)
    assert not only(run.answer(), do.Resume)
    run.tick(1.0)
    assert only(run.answer(), do.Resume)


def test_what_was_postponed_counts_no_attempt_and_keeps_its_lane() -> None:
    run = Run("key")
    run.assign()
    run.poll(0, 1, key=b"k")
    for _ in range(5):
        run.end(Postponed(ERROR, 3.0))
        assert run.started == []
        run.tick(3.0)
        assert [(entry.task.offset, entry.attempt) for entry in run.started] == [(0, 1)]
    run.end()
    assert [entry.task.offset for entry in run.started] == [1]
    assert run.engine.routes["mail"].retried == 0


def test_an_undecodable_record_holds_its_offset_until_its_dead_letter_is_acknowledged() -> None:
    run = Run()
    run.assign()
    run.poll(0, headers=[("ce_type", b"\xff")])
    run.poll(1)
    run.end()
    (commit,) = only(run.tick(1.0), do.Commit)
    assert isinstance(commit, do.Commit)
    assert commit.items[0].offset == 0
    run.tell(on.Committed([(PLACE, commit.items[0].epoch, None)]))
    assert run.sent[0].publication.topic == LETTER
    assert dict(run.sent[0].publication.headers)["kworker-reason"] == Reason.UNDECODABLE.encode()
    run.answer()
    (commit,) = only(run.tick(1.0), do.Commit)
    assert isinstance(commit, do.Commit)
    assert (commit.items[0].offset, decode(commit.items[0].metadata, 2)) == (2, Intervals())


def test_a_dead_letter_that_cannot_be_written_holds_up_no_revoke() -> None:
    run = Run()
    run.assign()
    run.poll(0, headers=[])
    (pause,) = only(run.answer(on.Refusal.NO_TOPIC), do.Pause)
    assert isinstance(pause, do.Pause)
    (released,) = only(run.tell(on.Revoked([PLACE], 60.0)), do.Released)
    assert isinstance(released, do.Released)
    assert [(item.offset, item.metadata) for item in released.commit] == [(0, "")], "nothing is finished"


def test_a_missing_dead_letter_topic_is_asked_for() -> None:
    run = Run()
    run.assign()
    run.poll(0, headers=[])
    assert only(run.answer(on.Refusal.NO_TOPIC), do.CreateTopics) == [do.CreateTopics([("tasks", LETTER)])]


def test_a_dead_letter_shrinks_until_it_fits() -> None:
    run = Run()
    run.assign()
    run.poll(0, headers=[("h", b"x" * 20_000)])
    sizes = []
    for _ in range(3):
        publication = run.sent[0].publication
        sizes.append((len(publication.headers), publication.value))
        run.answer(on.Refusal.TOO_LARGE)
    assert [value for _, value in sizes] == [b"{}", b"{}", b""]
    assert run.sent == []
    assert only(run.tick(1.0), do.Send), "even the smallest was refused: it is tried again, and the partition waits"


def test_the_same_records_again_change_nothing() -> None:
    run = Run()
    run.assign()
    run.poll(0, 1, 2)
    known = run.engine.pressure.unfinished
    run.poll(0, 1, 2, 3)
    assert run.engine.pressure.unfinished == known + 1
    assert [entry.task.offset for entry in run.started] == [0, 1, 2, 3]
