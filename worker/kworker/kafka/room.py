"""How much the loop can take: what the intake must know before it polls."""

from __future__ import annotations

from typing import Protocol


class Room(Protocol):
    """How much the loop can take: read by the intake thread, written by the loop."""

    def records(self) -> int:
        """How many more records."""

    def bytes(self) -> int:
        """How many more bytes."""
