"""A Redis for each run of a peer whose tasks wait there, full before the peer starts, as Kafka is for others.

It listens on a socket in the folder of the run, writes nothing to disk, and is no part of what is measured, as Kafka is
none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.place import Place
from kit.leash import leashed
from kit.waiting import wait_for

START, FILL = 15.0, 300.0  # seconds for the server to answer, and for the tasks to be published


def socket_of(place: Place) -> Path:
    """Where the Redis of a run listens."""
    return place.folder / "redis.sock"


@contextmanager
def full(
    place: Place, folder: Path, fill: list[str], payloads: Iterable[bytes], left: tuple[tuple[str, str], ...]
) -> Iterator[Callable[[], int]]:
    """A Redis with these tasks; gives what counts those not acknowledged.

    folder: of redis-server and redis-cli. fill: publishes each line of its standard input. left: commands and keys.
    """
    where = str(socket_of(place))
    files = ("--save", "", "--appendonly", "no", "--dir", str(place.folder), "--logfile", "redis.log")
    command = leashed(str(folder / "redis-server"), "--port", "0", "--unixsocket", where, *files)
    environment = place.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def asked(*words: str) -> str:
        cli = [str(folder / "redis-cli"), "-s", where, *words]
        return subprocess.run(cli, capture_output=True, text=True, check=False, timeout=START).stdout.strip()

    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: asked("PING") == "PONG", START, "Redis")
        lines = b"".join(payload + b"\n" for payload in payloads)
        subprocess.run(fill, input=lines, env=environment, check=True, timeout=FILL)
        yield lambda: sum(int(asked(*words)) for words in left)
    finally:
        server.terminate()
        server.wait(START)
