"""What supervisor and worker say to each other: frames of bytes, each behind its length, over one stream socket.

Promises: nothing here waits; what the other side does not take yet is kept, and only whole frames are handed out.
"""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("<I")
_READ = 1 << 18


class Line:
    """One end of a socket, which becomes non-blocking. gone: the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.gone = False
        self._in = bytearray()
        self._out = bytearray()

    @property
    def idle(self) -> bool:
        """Whether all that was sent is on its way."""
        return not self._out

    def send(self, data: bytes = b"") -> None:
        """Send a frame behind what is left of the last ones; with nothing, only that."""
        if data:
            self._out += _LENGTH.pack(len(data)) + data
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
            self._out.clear()

    def receive(self) -> list[bytes]:
        """The frames that have come since."""
        try:
            while data := self.socket.recv(_READ):
                self._in += data
            self.gone = True
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
        frames = []
        while len(self._in) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._in)
            if len(self._in) < _LENGTH.size + size:
                break
            frames.append(bytes(self._in[_LENGTH.size : _LENGTH.size + size]))
            del self._in[: _LENGTH.size + size]
        return frames
