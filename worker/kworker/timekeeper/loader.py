"""A process that reads one partition of the delay log from its start into the file of a cache, for a worker.

Reading a million entries takes seconds of Python; in the worker they would be taken from the tasks, which one
interpreter runs. Promises: it reads in the processor time that nobody else wants; for what was not read in half a
minute of that, and to settle, which is one step, it takes no more than a tenth of a core that is wanted, so it ends
in time on a full machine as well; the file has a name only until the worker has opened it; it ends when the worker
does. What it is told comes through its standard input, so no argument shows a secret; what it found goes to its
standard output. It hands nothing over and joins no group.
"""

from __future__ import annotations

import gc
import math
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import BinaryIO

import msgspec
from confluent_kafka import Consumer, KafkaException
from msgspec import Struct

from kworker.timekeeper.cache import Cache
from kworker.timekeeper.reading import Clocks
from kworker.timekeeper.replay import bring

OPENED = b"\n"
"""What the worker says when it has opened the file."""

_NICE = 10  # of a core that others want as well, the kernel gives this one a tenth


class Order(Struct, frozen=True):
    """What to read. settings: of a Consumer. folder: where the file is to be; None is where temporary files are.
    wall, steady: what the worker's clocks show. patience: for how many seconds only idle time is taken."""

    settings: dict[str, str]
    log: str
    partition: int
    folder: str | None
    wall: int
    steady: int
    patience: float = 30.0


class Loaded(Struct, frozen=True):
    """What is in the file now: the attributes of its cache. fault: why there is nothing, or ''."""

    position: int = 0
    pending: int = 0
    exposed: list[int] = []
    fault: str = ""


class _Alone(Exception):
    """The worker is gone."""


class _TooSlow(Exception):
    """Too little is left over."""


def main() -> None:
    """Serve one order."""
    gc.disable()  # nothing here is in a cycle, and to look for some costs a fifth of the time
    os.nice(_NICE)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    try:
        loaded = _load(order, sys.stdin.buffer, sys.stdout.buffer)
    except _Alone:
        return
    except (KafkaException, sqlite3.Error, OSError) as error:
        loaded = Loaded(fault=f"{type(error).__name__}: {error}")
    _say(sys.stdout.buffer, loaded)


def _load(order: Order, heard: BinaryIO, said: BinaryIO) -> Loaded:
    parent = os.getppid()

    def shown(path: str) -> None:
        _say(said, path)
        if heard.readline() != OPENED:
            raise _Alone

    def look(until: float) -> Clocks:
        if os.getppid() != parent:
            raise _Alone
        if time.monotonic() > until:
            raise _TooSlow
        return Clocks(order.wall, order.steady)

    def read(until: float) -> None:
        # A client of its own: the threads of one work as the one that made it.
        with Consumer(order.settings) as consumer:
            bring(consumer, order.log, {order.partition: cache}, partial(look, until))

    cache = Cache(order.folder, shown=shown)
    try:
        _read(read, order.patience)
        cache.settle()  # not in idle time: nothing ends it, and on a full machine it would not end itself
        return Loaded(cache.position, cache.pending, sorted(cache.exposed))
    finally:
        cache.close()


def _read(read: Callable[[float], None], patience: float) -> None:
    """At first in a thread that gives way; it could not take that back, so another one goes on after it."""
    with ThreadPoolExecutor(1, initializer=_give_way) as pool, suppress(_TooSlow):
        return pool.submit(read, time.monotonic() + patience).result()
    return read(math.inf)


def _give_way() -> None:
    # Nice 19 is not enough: what runs ends its turn of some milliseconds when a thread of the worker wakes up.
    if sys.platform == "linux":
        with suppress(OSError):  # it may be forbidden
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _say(said: BinaryIO, what: object) -> None:
    said.write(msgspec.json.encode(what) + b"\n")
    said.flush()
