"""Durations as users write them: `250ms 10s 5m 2h 3d`, or a plain number of seconds."""

from __future__ import annotations

import math
import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PATTERN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)", re.ASCII)

MAXIMUM = 10 * 366 * 86400.0
"""Ten years, in seconds: nothing in kworker waits longer."""


def seconds(value: float | str) -> float:
    """Read a duration; returns seconds, from 0 to `MAXIMUM`.

    Raises ValueError with the accepted forms when the text, or the number, is not a duration.
    """
    if isinstance(value, str):
        match = _PATTERN.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value[:40]!r} is not a duration: write 250ms, 10s, 5m, 2h or 3d")
        result = float(match[1]) * _UNITS[match[2]]
    else:
        result = float(value)
    if not math.isfinite(result) or result < 0 or result > MAXIMUM:
        raise ValueError(f"{value!r} is not between 0 and 10 years")
    return result
