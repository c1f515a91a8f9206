"""How long `kworker --help` takes from its launch to its end: what every command pays before it does anything."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks import told
from benchmarks.effect import Effect
from benchmarks.peer import Peer, of_distributions
from benchmarks.place import Place

PEERS = (
    Peer(
        "kworker --help",
        frozenset({"START"}),
        lambda place: [sys.executable, "-m", "benchmarks.starting"],
        of_distributions("kworker-kafka"),
        "a new process each time, output thrown away; the median",
    ),
)


def _once() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "kworker", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


if __name__ == "__main__":
    here = Place.given()
    told.tell(here, {"help": median(_once() for _ in range(Effect(here.effect).tasks))})
