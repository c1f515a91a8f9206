"""The record that a letter was, as a replay writes it again.

Promises: key, value and headers are the original ones byte for byte, null is not empty; one header says how often the
record was replayed. A letter that cannot be put back is a Refusal that says why: it stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import structs

from kworker.dlq.letter import MOST_REPLAYS, REPLAY, Letter, read
from kworker.dlq.place import Place
from kworker.task import Headers, Publication, Record

KEY_DECIDES = -1
"""The partition of a record whose key decides."""


class Refusal(Exception):
    """This letter cannot be put back: why, and what to do."""


class Restored(NamedTuple):
    """A record to write, and the partition it goes to: `KEY_DECIDES`, or a number."""

    publication: Publication
    partition: int


def restored(letter: Letter, to: str | None, most_replays: int) -> Restored:
    """The record to write for `letter`, whole as it is in the letter.

    to: another topic than the original; there the key decides about the partition. Raises Refusal.
    """
    if letter.fault:
        raise Refusal(letter.fault)
    origin = letter.origin
    topic = to or (origin.topic if origin else "")
    if not topic:
        raise Refusal("it does not say where it came from: name a topic with --to")
    if letter.replays >= most_replays:
        raise Refusal(f"it was replayed {letter.replays} times already: --max-replays {letter.replays + 1} lets it go")
    partition = origin.partition if origin and topic == origin.topic else KEY_DECIDES
    return Restored(Publication(topic, letter.key, letter.value, _counted(letter)), partition)


def whole(letter: Letter, record: Record) -> Letter:
    """A truncated letter with what its origin, `record`, still holds. Raises Refusal when that is another record."""
    original = read(record)
    if original.fault:
        raise Refusal(f"it is truncated, and of its origin {original.fault}")
    headers = list(record.headers() or [])  # all are its own, whatever their names
    key, kept = letter.key or b"", len(letter.headers)
    if (
        len(original.value or b"") != letter.truncated
        or not (original.key or b"").startswith(key)
        or headers[:kept] != letter.headers
    ):
        raise Refusal(f"it is truncated, and {letter.about['origin']} holds another record now")
    return structs.replace(letter, key=original.key, value=original.value, headers=headers)


def changed(letter: Letter, value: bytes) -> Letter:
    """The same letter with another value."""
    return structs.replace(letter, value=value)


def origin_of(letter: Letter) -> Place:
    """Where the rest of a truncated letter may be. Raises Refusal."""
    if letter.origin is None:
        raise Refusal("it is truncated, and does not say where it came from")
    return letter.origin


def _counted(letter: Letter) -> Headers:
    count = min(letter.replays + 1, MOST_REPLAYS)
    return [header for header in letter.headers if header[0] != REPLAY] + [(REPLAY, b"%d" % count)]
