"""The run mark: what the commit metadata says of a partition's owners, so that a task that kills them is found.

An owner that is killed cannot say so. So each writes before its first task that its life began, and takes that back
when it ends well: what the next owner finds there are the lives that ended without a word.

Promises: exact; a text of another format reads as no mark; and a death is charged to a task only if the mark of the
dead life says that it alone ran.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kworker.core.metadata import Intervals

UNCLEAN_ENDS = 2
"""So many lives in a row must have ended without a word before their records are suspected: machines die."""

FIRST_LEASE = 32
"""Offsets that the first records after an unclean end may have, before another commit must allow more."""

_MOST_CHARGED = 8  # records whose deaths are kept; of more, those highest in the log are forgotten


class Mark(Struct, frozen=True, array_like=True):
    """What one commit says of the lives of its partition's owners.

    lives: how many began and did not end well, since the last that stayed alive; the writer's own counts. lease: only
    offsets below it may have been started by those lives; 0 when that is not known. alone: the offset of the one task
    that runs in this process, if there is one; since: when it was started (seconds since the epoch). deaths: for each
    offset, when it was started in the lives that died while it ran alone.
    """

    lives: int = 0
    lease: int = 0
    alone: int | None = None
    since: int = 0
    deaths: dict[int, tuple[int, ...]] = {}

    @property
    def suspect(self) -> bool:
        """True if so many lives ended without a word that what they may have been running must run alone."""
        return self.lives >= UNCLEAN_ENDS

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
        return Mark(self.lives + 1, max(self.lease, start + FIRST_LEASE), deaths=kept)

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


def unpacked(data: bytes) -> Mark:
    """What `packed` wrote; NONE when it is anything else."""
    if not data:
        return NONE
    try:
        return msgspec.msgpack.decode(data, type=Mark)
    except msgspec.MsgspecError:
        return NONE
