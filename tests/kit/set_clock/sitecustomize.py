"""A wall clock that can be set: Python imports this at its start when its folder is in PYTHONPATH.

CLOCK names a file with two numbers, seconds ahead and seconds more for each second since it was written; without it
the clock is right. The monotonic clock is left alone, as it is when a machine's clock is set.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_FILE = Path(os.environ["CLOCK"])
_right = time.time


def _time() -> float:
    now = _right()
    try:
        ahead, drift = map(float, _FILE.read_text().split())
        return now + ahead + drift * (now - _FILE.stat().st_mtime)
    except OSError:
        return now


time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
