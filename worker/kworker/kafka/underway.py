"""Asynchronous commits that are on their way, and which of them an answer belongs to.

While a member of the group is waited for (a killed one: until its session ends), the coordinator reads nothing more
from a connection that has asked to join, so a commit can be answered long after later ones were sent. Promise: an
answer is never taken for that of another commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import TopicPartition as Position

from kworker.core.actions import CommitItem


class Underway:
    """Owns the commits that were sent and not answered."""

    def __init__(self) -> None:
        self._sent: list[Sequence[CommitItem]] = []

    def __contains__(self, items: Sequence[CommitItem]) -> bool:
        return any(sent is items for sent in self._sent)

    def add(self, items: Sequence[CommitItem]) -> None:
        """A commit is sent."""
        self._sent.append(items)

    def answered(self, positions: Sequence[Position]) -> Sequence[CommitItem]:
        """An answer came, for these positions: returns what the commit was made of, empty when it is not known.

        An answer without positions is the oldest commit's.
        """
        found = {(place.topic, place.partition, place.offset, place.metadata or "") for place in positions}
        for number, items in enumerate(self._sent):
            if not found or {(*item.topic_partition, item.offset, item.metadata) for item in items} == found:
                return self._sent.pop(number)
        return ()
