"""Where a peer is to work and on what: all that a driver tells it, in one environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

VARIABLE = "KWORKER_BENCH_PLACE"


@dataclass(frozen=True, slots=True)
class Place:
    """What one run of one peer is given.

    folder: its working directory. effect: the file its tasks mark. body: what they do, a name in bodies.BODIES.
    slots: tasks that may run at once. processes: child processes, where the peer has some. consumer: kworker's own
    settings of librdkafka, for other peers that use it, so that no setting is an advantage.
    """

    bootstrap: str
    topic: str
    group: str
    folder: Path
    effect: Path
    body: str
    slots: int
    processes: int
    consumer: dict[str, str]

    def environment(self) -> dict[str, str]:
        """The variable that `given` reads in the peer."""
        return {VARIABLE: json.dumps(asdict(self), default=str)}

    @classmethod
    def given(cls) -> Self:
        """The one this process was started with."""
        given = json.loads(os.environ[VARIABLE])
        return cls(**given | {"folder": Path(given["folder"]), "effect": Path(given["effect"])})
