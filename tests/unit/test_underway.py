"""Commits on their way are told apart by what they commit."""

from __future__ import annotations

from kworker.core.actions import CommitItem
from kworker.kafka.positions import position_of
from kworker.kafka.underway import Underway
from kworker.task import TopicPartition


def commit(offset: int, metadata: str = "", partitions: int = 2) -> list[CommitItem]:
    return [CommitItem(TopicPartition("tasks", number), 1, offset, metadata) for number in range(partitions)]


def test_an_answer_belongs_to_the_commit_of_just_these_offsets_and_metadata() -> None:
    underway = Underway()
    commits = [commit(5), commit(5, "more"), commit(6), commit(6, partitions=1)]
    for items in commits:
        underway.add(items)
    for items in reversed(commits):
        assert items in underway
        assert underway.answered([position_of(item) for item in reversed(items)]) is items
        assert items not in underway


def test_an_answer_to_nothing_that_was_sent_changes_nothing() -> None:
    underway = Underway()
    sent = commit(5)
    underway.add(sent)
    assert underway.answered([position_of(item) for item in commit(6)]) == ()
    assert underway.answered([position_of(item) for item in sent[:1]]) == ()
    assert sent in underway


def test_an_answer_without_positions_is_the_oldest_commits() -> None:
    underway = Underway()
    first, second = commit(5), commit(6)
    underway.add(first)
    underway.add(second)
    assert underway.answered([]) is first
    assert underway.answered([]) is second
    assert underway.answered([]) == ()
