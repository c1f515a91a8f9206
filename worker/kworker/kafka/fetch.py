"""One fetch of the intake: the first record as soon as there is one, and what else is there."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, Message

_CHUNK = 1000


def fetch(consumer: Consumer, wait: float, most: int, most_bytes: Callable[[], int]) -> list[Message]:
    """Up to `most` messages, and about so many bytes; empty when none came within `wait` seconds.

    most_bytes: asked when the first is there.
    """
    # consume(n, timeout) would wait for n records or the whole timeout; poll returns with the first.
    first = consumer.poll(wait)
    if first is None:
        return []
    batch = [first]
    limit, size = most_bytes(), len(first)
    while len(batch) < most and size < limit:
        more = consumer.consume(min(_CHUNK, most - len(batch)), 0)
        batch += more
        size += sum(map(len, more))
        if len(more) < _CHUNK or len(batch) > 4 * _CHUNK:
            break
    return batch
