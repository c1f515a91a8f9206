"""Letters counted by task and error: what `dlq ls` tells, in bounded memory whatever the topic holds."""

from __future__ import annotations

from msgspec import Struct

from kworker.dlq.letter import Letter

MOST_GROUPS = 1_000
"""Groups that are kept apart; letters of further ones are counted together."""

MOST_TEXT = 2_000
"""Characters of a sample's message that are kept."""


class Group(Struct):
    """Letters alike. Times are in ms since the epoch; the sample is the latest of them."""

    task: str
    fingerprint: str
    reason: str
    error: str
    count: int
    resolved: int
    first_seen: int
    last_seen: int
    message: str
    sample: str


class Groups:
    """Counts letters. `left_out`: those of groups beyond `MOST_GROUPS`."""

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self.left_out = 0
        self._most = most
        self._groups: dict[tuple[str, str, str, str], Group] = {}

    def add(self, letter: Letter, resolved: bool) -> None:
        """One more letter; `resolved`: it was dealt with."""
        key = letter.task[:MOST_TEXT], letter.fingerprint[:MOST_TEXT], letter.reason, letter.error[:MOST_TEXT]
        at = letter.failed_at
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._most:
                self.left_out += 1
                return
            group = self._groups[key] = Group(*key, 0, 0, at, at, "", "")
        group.count += 1
        group.resolved += resolved
        group.first_seen = min(group.first_seen, at)
        if at >= group.last_seen:
            group.last_seen = at
            group.message, group.sample = letter.message[:MOST_TEXT], letter.place.argument

    @property
    def count(self) -> int:
        """All letters that were added."""
        return self.left_out + sum(group.count for group in self._groups.values())

    def largest_first(self) -> list[Group]:
        """The groups, by how many letters they have, then by the latest."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, -group.last_seen))
