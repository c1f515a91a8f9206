"""A schedule: which task is published when, and what becomes of times that passed; and its state in the delay log."""

from __future__ import annotations

import hashlib
import re

import msgspec
from msgspec import Struct, field

from kworker.duration import MAXIMUM
from kworker.schedules.misfire import MOST, Due, Policy, due
from kworker.schedules.moment import rfc3339
from kworker.schedules.trigger import LAST, Trigger

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""A schedule's name: it is part of the ids of what it publishes."""


_MOST_RUNS = 2**53 - 1  # beyond it, JSON of others is not exact


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is published at each time of the trigger.

    payload: JSON text, None for none. jitter: seconds; each time is put off by a part of it, the same one whoever
    counts. most: how many passed times `all` runs. source: who wrote it: '' by hand, else what applied it, so that
    what left there can be removed. Raises ValueError for what cannot be meant.
    """

    name: str
    task: str
    trigger: Trigger
    topic: str = "tasks"
    payload: str | None = None
    key: str | None = None
    misfire: Policy = Policy.ONCE
    most: int = 10
    jitter: float = 0.0
    paused: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"schedule {self.name[:40]!r}: a name has 1 to 100 of the characters a-z A-Z 0-9 . _ -")
        if not 1 <= self.most <= MOST:
            raise ValueError(f"schedule {self.name}: most is not between 1 and {MOST}")
        if not 0 <= self.jitter <= MAXIMUM:
            raise ValueError(f"schedule {self.name}: jitter is not between 0 and 10 years")

    def fires_at(self, at: float) -> float:
        """When the run that is due `at` is published: its share of the jitter later."""
        if not self.jitter:
            return at
        digest = hashlib.blake2b(self.occurrence(at).encode(), digest_size=8).digest()
        return at + self.jitter * int.from_bytes(digest, "big") / 2**64

    def occurrence(self, at: float) -> str:
        """The id of the run that is due `at`: the same whoever publishes it."""
        return f"{self.name}@{rfc3339(at)}"


class Standing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schedule and how far it got: what the delay log holds of it.

    last: the time it was looked at up to, all before it was decided. next: the time it waits for; None when there is
    none any more, or it is paused. ran: the last time that was published. All in seconds since the epoch.
    """

    schedule: Schedule
    last: float
    next: float | None
    ran: float | None = None
    runs: int = field(default=0)

    def __post_init__(self) -> None:
        for at in (self.last, self.next, self.ran):
            if at is not None and not 0 <= at < LAST:
                raise ValueError(f"schedule {self.schedule.name}: {at!r} is not a time from 1970 on")
        if not 0 <= self.runs <= _MOST_RUNS:
            raise ValueError(f"schedule {self.schedule.name}: {self.runs} is no number of runs")

    @classmethod
    def begin(cls, schedule: Schedule, now: float) -> Standing:
        """A schedule that is new, or was changed: what was due before does not count."""
        following = None if schedule.paused else next(schedule.trigger.after(now), None)
        return cls(schedule=schedule, last=now, next=following)

    def over(self, old: Standing) -> Standing:
        """How it stands when it replaces `old`, written by somebody who may not know how far that one had got.

        What was decided stays so; and a schedule with the times of the old one goes on where that was.
        """
        mine, other = self.schedule, old.schedule
        last, following = max(self.last, old.last), self.next
        if (mine.trigger, mine.paused) == (other.trigger, other.paused):
            last, following = old.last, old.next
        elif following is not None and following <= last:
            following = next(mine.trigger.after(last), None)
        ran = max((at for at in (self.ran, old.ran) if at is not None), default=None)
        return self._moved(last, following, ran, max(self.runs, old.runs))

    def fire(self, now: float, most: int = MOST) -> tuple[list[float], Standing]:
        """What is to be published now, as the times it was due, and how the schedule stands then.

        Call it when `next` has come, with its jitter. A time that passed meanwhile is treated by the misfire policy.
        most: how many are published now; the others are due at once then.
        """
        if self.next is None or now < self.schedule.fires_at(self.next):
            return [], self
        # What is due within the jitter may not have come yet with its own share of it; the one waited for has.
        until = max(self.next, now - self.schedule.jitter)
        found: Due = due(self.schedule.trigger, self.last, until, self.schedule.misfire, self.schedule.most)
        times, following = found.now, found.next
        if len(times) > most:
            times, following = times[:most], times[most]
            until = times[-1]
        ran = times[-1] if times else self.ran
        return times, self._moved(until, following, ran, self.runs + len(times))

    def _moved(self, last: float, following: float | None, ran: float | None, runs: int) -> Standing:
        """The same schedule, further on; it ends at the end of what can be written down."""
        if following is not None and following >= LAST:
            following = None
        return msgspec.structs.replace(self, last=last, next=following, ran=ran, runs=min(runs, _MOST_RUNS))

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Standing:
        """What `encode` wrote. Raises ValueError for anything else."""
        if len(data) > 1 << 20:
            raise ValueError("a schedule has at most 1 MiB")
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise ValueError(f"it is not a schedule: {error}") from error
