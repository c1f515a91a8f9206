"""A dead letter as it is read back: why it was set aside, and the record that it was (WIRE.md "A dead letter").

Promises: `read` is total, any record gives a Letter; `headers` are the original ones, in order, byte for byte, whatever
names they have: what a worker added is told apart by where it stands, behind the original ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from kworker.core import structured
from kworker.core.wire import headers_of
from kworker.dlq.place import Place
from kworker.errors import ConfigError, DecodeError
from kworker.task import Headers, Record

REPLAY = "kworker-replay"
"""The one header that a replay adds: how often the record was replayed."""

MOST_REPLAYS = 1_000_000
"""What that count is clamped to: anybody can write one."""

_PREFIX = "kworker-"
_FIRST, _ORIGIN = "kworker-reason", "kworker-origin"  # the first header that a worker adds, and one that it always adds
_ADDED = frozenset(
    _PREFIX + name
    for name in (
        *("reason", "error-type", "error-message", "error-stack", "error-fingerprint"),
        *("attempts", "first-seen", "failed-at", "origin", "group", "worker", "truncated"),
    )
)
_LONGEST_NUMBER = 18


class Letter(Struct, frozen=True, gc=False):
    """One record of a dead-letter topic. Times are in milliseconds since the epoch; '' is what it does not say.

    headers: the original ones. about: what the worker added, by name without `kworker-`, as text. fault: why nothing of
    that could be read.
    """

    place: Place
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    about: Mapping[str, str]
    task: str
    id: str
    fault: str = ""

    @property
    def reason(self) -> str:
        """Why it was set aside."""
        return self.about.get("reason", "")

    @property
    def error(self) -> str:
        """The type of the error, or the finer cause."""
        return self.about.get("error-type", "")

    @property
    def message(self) -> str:
        """What the error said."""
        return self.about.get("error-message", self.fault)

    @property
    def fingerprint(self) -> str:
        """The same for errors alike."""
        return self.about.get("error-fingerprint", "")

    @property
    def failed_at(self) -> int:
        """When it was set aside."""
        return self.number("failed-at") or self.timestamp

    def number(self, name: str) -> int:
        """A number that the worker added; 0 when there is none."""
        return _number(self.about.get(name, ""))

    @property
    def origin(self) -> Place | None:
        """Where the record was; None when the letter does not say."""
        try:
            return Place.parse(self.about.get("origin", ""))
        except ConfigError:
            return None

    @property
    def truncated(self) -> int | None:
        """Bytes of the original value, when the letter holds neither it nor all of key and headers."""
        return self.number("truncated") if "truncated" in self.about else None

    @property
    def replays(self) -> int:
        """How often the record says it was replayed."""
        counts = [value for name, value in self.headers if name == REPLAY]
        return min(_number((counts[-1] or b"").decode("utf-8", "replace")), MOST_REPLAYS) if counts else 0


def read(record: Record) -> Letter:
    """The letter in a record of a dead-letter topic."""
    fault = ""
    headers = headers_of(record)
    if isinstance(headers, DecodeError):
        headers, fault = [], "a header's name is not UTF-8, so its headers cannot be read"
    original, added = _parted(headers)
    about = {name.removeprefix(_PREFIX): _text(value) for name, value in added}
    place = Place(record.topic(), record.partition(), record.offset())
    value = record.value()
    task, identity = _named(original, value)
    return Letter(
        place,
        record.timestamp()[1],
        record.key(),
        value,
        original,
        about,
        task,
        identity or about.get("origin", ""),
        fault,
    )


def _parted(headers: Headers) -> tuple[Headers, Headers]:
    """The original headers, and those that the worker added.

    A worker adds them in one piece, behind the original ones. What comes in another order was written by somebody else:
    then all by these names are taken for added.
    """
    start = max((index for index, (name, _) in enumerate(headers) if name == _FIRST), default=0)
    if not any(name == _ORIGIN for name, _ in headers[start:]):
        start = 0
    rest = headers[start:]
    original = headers[:start] + [header for header in rest if header[0] not in _ADDED]
    return original, [header for header in rest if header[0] in _ADDED]


def _named(headers: Headers, value: bytes | None) -> tuple[str, str]:
    """The task's name and the message's id, as a worker would read them; '' for none."""
    found = dict(headers)
    if (kind := found.get("content-type")) and kind[: len(structured.MARK)].lower() == structured.MARK:
        event = structured.attributes(value, kind)
        found.update({} if isinstance(event, DecodeError) else event)
    return _text(found.get("ce_type") or found.get("task")), _text(found.get("ce_id"))


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")


def _number(text: str) -> int:
    """A whole number, of which 18 digits are enough, or 0: nobody can be trusted to have written one."""
    return int(text[:_LONGEST_NUMBER]) if text.isascii() and text.isdecimal() else 0
