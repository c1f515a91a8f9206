"""What the intake commits when partitions are taken away: the last word is the last that is sent, and is answered."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.core.actions import CommitItem
from kworker.core.events import Committed, Event, Revoked
from kworker.kafka.consumer import Intake
from kworker.task import TopicPartition

FIRST, SECOND, THIRD = (TopicPartition("t", number) for number in range(3))
REFUSED = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
DEADLINE = 10.0


class Answer(NamedTuple):
    """What the coordinator says of one partition."""

    topic: str
    partition: int
    offset: int
    metadata: str
    error: KafkaError | None


class Client:
    """A consumer that takes commits down; `refuses`: partitions whose commits are refused, all of them by raising."""

    def __init__(self, *refuses: int) -> None:
        self.commits: list[tuple[bool, dict[TopicPartition, int]]] = []
        self._refuses = refuses

    def commit(self, *, offsets: list[Position], asynchronous: bool) -> list[Answer] | None:
        self.commits.append((asynchronous, {TopicPartition(p.topic, p.partition): p.offset for p in offsets}))
        if asynchronous:
            return None
        if all(place.partition in self._refuses for place in offsets):
            raise KafkaException(REFUSED)
        return [
            Answer(p.topic, p.partition, p.offset, "", REFUSED if p.partition in self._refuses else None)
            for p in offsets
        ]


class Revoke:
    """An intake within the revoke of `names`, in a thread of its own, until it is released."""

    def __init__(self, client: Client, *names: TopicPartition) -> None:
        self.client = client
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.intake = Intake(
            {},
            ["t"],
            post=self.events.put,
            room=None,  # type: ignore[arg-type]  # nothing is fetched
            fatal=pytest.fail,
            probed=lambda alphabet: None,
        )
        self.intake._consumer = client  # type: ignore[assignment]  # all of a consumer that a revoke needs here
        self.intake._assigned = {FIRST, SECOND, THIRD}
        places = [Position(*name) for name in names]
        self._thread = threading.Thread(target=self.intake._on_revoke, args=(client, places), daemon=True)

    def begin(self) -> None:
        self._thread.start()
        assert isinstance(self.events.get(timeout=DEADLINE), Revoked)

    def end(self, *items: CommitItem) -> None:
        self.intake.release(items)
        self.finish()

    def finish(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.intake._execute_commands()

    def answers(self) -> dict[TopicPartition, str | None]:
        found: dict[TopicPartition, str | None] = {}
        while not self.events.empty():
            event = self.events.get()
            assert isinstance(event, Committed)
            found |= {name: error for name, _, error in event.results}
        return found


def item(name: TopicPartition, offset: int) -> CommitItem:
    return CommitItem(name, 1, offset, "")


def test_a_commit_that_was_asked_for_while_partitions_are_drained_does_not_take_back_their_last_one() -> None:
    # It waits for the end of the revoke; sent then, it would have what was finished meanwhile run again elsewhere.
    revoke = Revoke(Client(), FIRST)
    revoke.intake.commit([item(FIRST, 4)])
    revoke.begin()
    revoke.intake.commit([item(FIRST, 5), item(SECOND, 7)])
    revoke.end(item(FIRST, 6))
    assert revoke.client.commits == [(False, {FIRST: 6})]
    assert revoke.answers() == {FIRST: "overtaken by a revoke", SECOND: "overtaken by a revoke"}
    revoke.intake.commit([item(SECOND, 8)])
    revoke.intake._execute_commands()
    assert revoke.client.commits[1:] == [(True, {SECOND: 8})]


def test_a_revoke_during_the_close_is_the_last_word_as_well() -> None:
    revoke = Revoke(Client(), FIRST)
    revoke.begin()
    revoke.intake.commit([item(FIRST, 5)])
    revoke.intake._committer.close_with([item(FIRST, 6), item(SECOND, 7)])
    revoke.finish()
    assert revoke.client.commits == [(False, {FIRST: 6})]


@pytest.mark.parametrize("refuses", [(), (1,), (1, 2), (0, 1, 2)])
def test_the_answer_to_the_last_commit_is_told_partition_by_partition(
    refuses: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    revoke = Revoke(Client(*refuses), FIRST, SECOND, THIRD)
    revoke.begin()
    revoke.end(item(FIRST, 1), item(SECOND, 2), item(THIRD, 3))
    why = [REFUSED.str() if number in refuses else None for number in range(3)]
    assert revoke.answers() == dict(zip((FIRST, SECOND, THIRD), why, strict=True))
    warned = [record.partitions for record in caplog.records if "was refused" in record.message]  # type: ignore[attr-defined]  # extra
    assert warned == ([" ".join(f"t/{number}" for number in refuses)] if refuses else [])


def test_what_is_refused_during_the_close_is_told_at_its_end() -> None:
    revoke = Revoke(Client(1), FIRST, SECOND)
    revoke.begin()
    revoke.intake._committer.close_with([item(FIRST, 1), item(SECOND, 2)])
    revoke.finish()
    assert [left.topic_partition for left in revoke.intake.uncommitted] == [SECOND]
