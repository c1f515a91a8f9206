"""What follows when a worker process has ended: another one, after which wait, or the end of all. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kworker.errors import ConfigError, FatalKafkaError, PluginError

LONG = 60.0
"""Seconds of life after which an end is no more held against a worker."""

_FIRST, _MOST = 0.5, 30.0
_FATAL_ENDS = 5  # in a row: such as a wrong password, which no restart mends
_HOPELESS = (ConfigError.exit_code, PluginError.exit_code)
_BY_WEIGHT = (0, 4, 6, FatalKafkaError.exit_code, PluginError.exit_code, ConfigError.exit_code, 1)


class Restarts:
    """The ends of one worker's processes, as they come."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def wait(self, code: int, lived: float) -> float | None:
        """Seconds until the next one is to start; None: none is, and its code is that of all.

        code: how it ended, 128 and more by a signal. lived: seconds from its start to its end.
        """
        self._in_a_row = 1 if lived >= LONG else self._in_a_row + 1
        if code in _HOPELESS or (code == FatalKafkaError.exit_code and self._in_a_row >= _FATAL_ENDS):
            return None
        return min(_MOST, _FIRST * 2.0 ** min(self._in_a_row - 1, 10))


def worst(codes: Iterable[int]) -> int:
    """The exit code that says most of several; 0 of none."""
    return max(codes, key=lambda code: _BY_WEIGHT.index(code) if code in _BY_WEIGHT else len(_BY_WEIGHT), default=0)
