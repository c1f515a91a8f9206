"""Which letters are meant: `--where`, `--before` and `--since`, read and applied."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from kworker.dlq.letter import Letter
from kworker.duration import seconds

_TEXTS: Mapping[str, Callable[[Letter], str]] = {
    "task": lambda letter: letter.task,
    "reason": lambda letter: letter.reason,
    "fingerprint": lambda letter: letter.fingerprint,
    "error": lambda letter: letter.error,
    "id": lambda letter: letter.id,
}
_KEY, _ORIGIN = "key", "origin"
KEYS = (*_TEXTS, _KEY, _ORIGIN)
"""What `--where` may name."""


class Choice(Struct, frozen=True):
    """Some letters. where: by name, the values of which one must be met. before, since: ms since the epoch, of the time
    it was set aside; since is included. partition, offset: the one letter there."""

    where: Mapping[str, Sequence[str]]
    before: int | None = None
    since: int | None = None
    partition: int | None = None
    offset: int | None = None

    @property
    def everything(self) -> bool:
        """Whether it is all letters."""
        return self == Choice({})

    def takes(self, letter: Letter) -> bool:
        """Whether the letter is meant."""
        if self.partition is not None and letter.place[1:] != (self.partition, self.offset):
            return False
        if self.before is not None and letter.failed_at >= self.before:
            return False
        if self.since is not None and letter.failed_at < self.since:
            return False
        return all(any(_meets(letter, name, value) for value in values) for name, values in self.where.items())


def conditions(texts: Iterable[str]) -> dict[str, list[str]]:
    """Read `--where NAME=VALUE`: of one name any value, of several names each. Raises ValueError."""
    where: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in KEYS:
            raise ValueError(f"{text[:60]!r} is not NAME=VALUE with one of the names {', '.join(KEYS)}")
        where.setdefault(name, []).append(value)
    return where


def moment(text: str, now: float) -> int:
    """Read `2h`, which is two hours before `now` (seconds since the epoch), or an RFC 3339 time, as ms since the epoch.

    Raises ValueError.
    """
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        pass
    else:
        if when.tzinfo is None:
            raise ValueError(f"{text[:60]!r} does not say its offset from UTC: end it with Z or +01:00")
        return int(when.timestamp() * 1000)
    try:
        return int((now - seconds(text)) * 1000)
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is neither a duration, such as 2h, nor a time, such as 2026-12-01T09:00:00Z"
        ) from None


def rate(text: str) -> float:
    """Read `100/s`, `30/m`, `10/h` or `100`, as letters in a second. Raises ValueError."""
    number, slash, unit = text.strip().partition("/")
    span = {"": 1, "/s": 1, "/m": 60, "/h": 3600}.get(slash + unit)
    if span is None or not number.isascii() or not number.isdecimal() or not 0 < int(number[:10]) <= 1_000_000:
        raise ValueError(f"{text[:60]!r} is not a rate: write 100/s, 30/m or 10/h")
    return int(number) / span


def _meets(letter: Letter, name: str, value: str) -> bool:
    if name == _KEY:
        return letter.key == os.fsencode(value)
    if name == _ORIGIN:  # a topic, one of its partitions, or one record
        origin = value.replace(":", "/")
        return letter.origin is not None and f"{letter.origin}/".startswith(f"{origin}/")
    return _TEXTS[name](letter) == value
