"""The run mark: what the commit metadata says of a partition's owners, so that a task that kills them is found.

An owner that is killed cannot say so. So each writes before its first task that its life began, and takes that back
when it ends well: what the next owner finds there are the lives that ended without a word.

Promises: exact; a text of another format reads as no mark; and a death is charged to a task only if the mark of the
dead life says that it alone ran.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from kworker.core.metadata import Intervals

UNCLEAN_ENDS = 2
"""So many lives in a row must have ended without a word before their records are suspected: machines die."""

FIRST_LEASE = 32
"""Offsets that the first records after an unclean end may have, before another commit must allow more."""

FEW = 8
"""So many suspects run one at a time, each named."""

PARTS = 8
"""More of them run in so many parts, those of a part together: a death leaves one part of the suspects."""

_MOST_LISTED = 1 << 16  # offsets; a longer range is mostly a gap, and is parted without a look at what is finished
_MOST_CHARGED = 8  # records whose deaths are kept; of more, those highest in the log are forgotten


class Mark(Struct, frozen=True, array_like=True):
    """What one commit says of the lives of its partition's owners.

    lives: how many began and did not end well, since the last that stayed alive; the writer's own counts. lease: only
    offsets below it may have been started; 0 when that is not known. alone: the offset of the one task that runs in
    this process, if there is one; since: when it was started (seconds since the epoch). deaths: for each offset, when
    it was started in the lives that died while it ran alone. first: offsets below it run in no other way than that.
    """

    lives: int = 0
    lease: int = 0
    alone: int | None = None
    since: int = 0
    deaths: dict[int, tuple[int, ...]] = {}
    first: int = 0

    @property
    def suspect(self) -> bool:
        """True if so many lives ended without a word that what they may have been running must run alone."""
        return self.lives >= UNCLEAN_ENDS

    def parts(self, start: int, finished: Intervals | frozenset[int], end: int | None) -> list[int]:
        """Where the parts end in which what may have run at the last death runs again, together; else empty.

        That is for few, which run one at a time, and after the death of one that ran alone: nothing else did.
        """
        if not self.suspect or self.alone is not None:
            return []
        among: Sequence[int] = range(max(start, self.first), _least(self.lease, end))
        if len(among) <= _MOST_LISTED:
            among = [n for n in among if n not in finished]
        size = -(-len(among) // PARTS)
        ends = range(size, len(among) + size, size) if len(among) > FEW else ()
        return [among[min(last, len(among)) - 1] + 1 for last in ends]

    def begun(self, start: int, finished: Intervals | frozenset[int], end: int | None) -> Mark:
        """What the next owner writes before its first task: the death is charged to the task that ran alone.

        start, finished: the committed offset, and what is done above it. end: of the log now, if it is known; where
        nothing is to be read, nothing can have killed anybody.
        """
        if not self.lives or (end is not None and end <= start):
            return ALIVE
        deaths = dict(self.deaths)
        if self.alone is not None:
            deaths[self.alone] = (*deaths.get(self.alone, ()), self.since)
        open_ones = sorted(offset for offset in deaths if offset >= start and offset not in finished)
        kept = {offset: deaths[offset] for offset in open_ones[:_MOST_CHARGED]}
        first, lease = 0, max(self.lease, start + FIRST_LEASE)
        if parts := self.parts(start, finished, end):
            first, lease = max(start, self.first), parts[0]
        elif self.suspect:
            first = self.first if self.alone is not None and self.first else _least(self.lease, end)
        return Mark(self.lives + 1, lease, deaths=kept, first=first)

    def ended(self) -> Mark:
        """What an owner writes that ends well: its own life counts no more, what it knows of earlier ones is kept."""
        return msgspec.structs.replace(self, lives=self.lives - 1, alone=None, since=0) if self.lives > 1 else NONE

    def packed(self) -> bytes:
        """As bytes; empty when there is nothing to say."""
        return msgspec.msgpack.encode(self) if self.lives else b""


NONE = Mark()
"""No owner is known, or the last one ended well."""

ALIVE = Mark(lives=1)
"""An owner is there, and nothing speaks against its records."""


def _least(offset: int, end: int | None) -> int:
    return offset if end is None else min(offset, end)


def unpacked(data: bytes) -> Mark:
    """What `packed` wrote; NONE when it is anything else."""
    if not data:
        return NONE
    try:
        return msgspec.msgpack.decode(data, type=Mark)
    except msgspec.MsgspecError:
        return NONE
