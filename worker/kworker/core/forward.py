"""The forward step: a record that must be acknowledged by the broker before an offset completes."""

from __future__ import annotations

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.task import ErrorInfo, Publication, Reason


class Verdict(Struct, frozen=True):
    """Why an entry is set aside."""

    reason: Reason
    error: ErrorInfo


class Forward(Struct, eq=False):
    """One record on its way to the broker on behalf of an entry.

    verdict: of a dead letter; None for what a task published. tries: how often the broker refused it so far.
    level: how much of a dead letter was cut to fit (see deadletter.py). due: when its entry is to be tried again
    (engine time), of a record of the delay log.
    """

    entry: Entry
    publication: Publication
    verdict: Verdict | None = None
    tries: int = 0
    level: int = 0
    due: float | None = None
