"""What waits in a partition of the delay log, as it is kept until it is due."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kworker.task import Headers

Content = tuple[bytes, Headers, int]
"""A record's value, headers and timestamp."""

pack = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Content] = msgspec.msgpack.Decoder(Content)


class Entry(Struct, frozen=True, gc=False):
    """A task or a schedule that waits, or a record that cannot be read: then `fault` says why. due: ms since the
    epoch."""

    offset: int
    id: bytes
    due: int
    content: bytes
    fault: str
    tries: int

    def record(self) -> Content:
        """The record as it is in the log; of a schedule how it stands, as JSON."""
        return _decoder.decode(self.content)
