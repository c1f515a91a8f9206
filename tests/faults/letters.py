"""Dead letters, as they are read back."""

from __future__ import annotations

from typing import cast

from confluent_kafka import Message

from kworker.task import Headers


def headers_of(letter: Message) -> Headers:
    """Its headers, in order."""
    return cast(Headers, letter.headers() or [])  # its stub says what may be produced, not what comes


def last(letter: Message, name: str) -> str:
    """A header's text; of duplicates the last counts."""
    return (dict(headers_of(letter))[name] or b"").decode()
