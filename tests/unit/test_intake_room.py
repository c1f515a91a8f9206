"""What the intake does without room: nothing is fetched that the loop has no room for, by count or by bytes."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from kworker.kafka.consumer import Intake


class Room(NamedTuple):
    """So much room."""

    left: int
    left_bytes: int

    def records(self) -> int:
        return self.left

    def bytes(self) -> int:
        return self.left_bytes


class Client:
    """A consumer that counts how often it is asked for records, and has none."""

    polls = 0

    def poll(self, timeout: float) -> None:
        self.polls += 1


@pytest.mark.parametrize(("room", "polls"), [(Room(1, 1), 1), (Room(0, 1), 0), (Room(1, 0), 0), (Room(1, -1), 0)])
def test_a_step_fetches_only_when_there_is_room(room: Room, polls: int) -> None:
    # Records that were posted and not taken yet count: a loop that is held up would be sent large ones for ever.
    intake = Intake({}, ["t"], post=lambda event: None, room=room, fatal=pytest.fail, probed=lambda alphabet: None)
    client = Client()
    intake._consumer = client  # type: ignore[assignment]  # all of a consumer that a step needs here
    intake._step()
    assert client.polls == polls
