"""Deals with letters: those that are meant are put back, or only marked, in batches of one transaction each.

Promises: a letter is resolved in the transaction that holds its record, so whatever interrupts it, nothing is put back
twice and nothing is left out; what cannot be put back, or whose mark would not fit, stays unresolved and is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from msgspec import Struct

from kworker.dlq.choice import Choice
from kworker.dlq.letter import Letter
from kworker.dlq.letters import Letters
from kworker.dlq.resolved import Resolved
from kworker.dlq.resolver import RecordRefused, Resolver
from kworker.dlq.restore import Refusal, Restored

MOST_AT_ONCE = 500
"""Letters of one transaction: enough to cost little each, few enough that readers of the topic do not wait for it."""

MOST_BYTES = 4 << 20
"""Bytes of keys and values of one transaction, unless one letter has more."""

_TRANSACTIONS_A_SECOND = 5  # with a rate: so that it is even, not one burst a minute


class Progress(Struct):
    """What came of the letters. left: those that are meant and stay, full: the partitions whose marks do not fit."""

    done: int = 0
    left: int = 0
    full: dict[int, int] = {}


Batch = list[tuple[Letter, Restored | None]]


class Settling:
    """Deals with the letters of a topic that `choice` takes, at most `limit` of them, `rate` a second.

    make: the record to write for a letter, None to only mark it; raises Refusal. done: told the letters of each
    transaction after it; left: told of a letter that stays, and why. resolver None: nothing is written.
    """

    def __init__(
        self,
        letters: Letters,
        resolver: Resolver | None,
        choice: Choice,
        make: Callable[[Letter], Restored | None],
        *,
        limit: int | None,
        rate: float | None,
        done: Callable[[Batch], None],
        left: Callable[[Letter, str], None],
    ) -> None:
        self.progress = Progress()
        self._letters = letters
        self._resolver = resolver
        self._choice = choice
        self._make = make
        self._limit = limit
        self._rate = rate
        self._done = done
        self._left = left
        self._began = time.monotonic()

    def run(self) -> Progress:
        """Deal with all of them. Raises KworkerError for what ends it early; what was done is done."""
        most = MOST_AT_ONCE if self._rate is None else int(self._rate / _TRANSACTIONS_A_SECOND)
        most = max(1, min(MOST_AT_ONCE, most))
        batch: Batch = []
        size = 0
        for letter, record in islice(self._meant(), self._limit):
            bytes_of = len(letter.value or b"") + len(letter.key or b"")
            if batch and size + bytes_of > MOST_BYTES:
                self._settle(batch)
                batch, size = [], 0
            batch.append((letter, record))
            size += bytes_of
            if len(batch) >= most:
                self._settle(batch)
                batch, size = [], 0
        self._settle(batch)
        return self.progress

    def _meant(self) -> Iterator[tuple[Letter, Restored | None]]:
        for letter, _ in self._letters.from_the_first():
            if letter.place.partition in self.progress.full or not self._choice.takes(letter):
                continue
            try:
                record = self._make(letter)
            except Refusal as refusal:
                self._leave(letter, str(refusal))
                continue
            yield letter, record

    def _leave(self, letter: Letter, why: str) -> None:
        self.progress.left += 1
        self._left(letter, why)

    def _settle(self, batch: Batch) -> None:
        batch = self._that_fit(batch)
        if not batch:
            return
        self._wait_for_its_turn()
        if self._resolver is not None:
            states = self._states([letter for letter, _ in batch])
            try:
                self._resolver.resolve([record for _, record in batch if record is not None], states)
            except RecordRefused as refused:
                if len(batch) == 1:
                    self._leave(batch[0][0], f"the broker does not take it: {refused}")
                for one in batch if len(batch) > 1 else ():
                    self._settle([one])
                return
            self._letters.resolved.update(states)
        self.progress.done += len(batch)
        self._done(batch)

    def _states(self, letters: Sequence[Letter]) -> dict[int, Resolved]:
        """What is resolved when these letters are, by partition."""
        offsets: dict[int, list[int]] = {}
        for letter in letters:
            offsets.setdefault(letter.place.partition, []).append(letter.place.offset)
        states = {}
        for partition, found in offsets.items():
            states[partition] = self._letters.resolved[partition].copy()
            states[partition].resolve(found)
        return states

    def _that_fit(self, batch: Batch) -> Batch:
        """Those whose mark can be written down; a partition is full from the first on that cannot."""
        if self._resolver is None:
            return batch
        alphabet = self._resolver.alphabet
        fitting = [one for one in batch if one[0].place.partition not in self.progress.full]
        for partition, state in self._states([letter for letter, _ in fitting]).items():
            if state.fits(alphabet):
                continue
            mine = [letter for letter, _ in fitting if letter.place.partition == partition]
            low, high = 0, len(mine)  # the most that fit: the first `low` do, the first `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                if self._states(mine[:middle])[partition].fits(alphabet):
                    low = middle
                else:
                    high = middle
            self.progress.full[partition] = mine[low].place.offset
            left_out = {letter.place for letter in mine[low:]}
            fitting = [one for one in fitting if one[0].place not in left_out]
        return fitting

    def _wait_for_its_turn(self) -> None:
        if self._rate is not None:
            time.sleep(max(0.0, self._began + self.progress.done / self._rate - time.monotonic()))
