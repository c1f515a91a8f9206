"""Where one record is: topic, partition, offset."""

from __future__ import annotations

import re
from typing import NamedTuple

from kworker.errors import ConfigError

_PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})([:/])([0-9]{1,10})\2([0-9]{1,19})", re.ASCII)


class Place(NamedTuple):
    """Where one record is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def argument(self) -> str:
        """As commands take it and tell it: `TOPIC:PARTITION:OFFSET`."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read `TOPIC:PARTITION:OFFSET`, or with slashes, as a dead letter tells its origin. Raises ConfigError."""
        found = _PLACE.fullmatch(text)
        if found is None or int(found[3]) >= 1 << 31 or int(found[4]) >= 1 << 63:
            raise ConfigError([f"{text[:300]!r} is not the place of a record: write TOPIC:PARTITION:OFFSET"])
        return cls(found[1], int(found[3]), int(found[4]))
