"""What a worker process tells of itself at one moment, as its supervisor reads it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

Labels = tuple[str, ...]
"""The label values of one series, in the order of the table of metrics."""

Snapshot = dict[str, dict[Labels, list[float]]]
"""The values of metrics by name and series: one number; of a histogram how many in each bucket, then the sum."""


class Bulletin(Struct):
    """live, ready: what speaks against either. status: the status page. metrics: all of them."""

    ready: list[str]
    live: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    metrics: Snapshot = field(default_factory=dict)
