"""What `kworker check` found: one line, and how bad it is."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line: what was looked at, what is wrong, and what to do."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


def ok(text: str) -> Finding:
    """It is as it should be."""
    return Finding("ok", text)


def warn(text: str) -> Finding:
    """A worker starts, but something is not as it may be meant."""
    return Finding("warn", text)


def fail(text: str) -> Finding:
    """A worker cannot do its work."""
    return Finding("FAIL", text)
