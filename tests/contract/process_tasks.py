"""What the children of the executor contract load, and the tasks that only a child process may run."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from contract import contract_tasks
from contract.executor_contract import SHORT
from kworker import Context, TaskSpec
from kworker.codecs.arguments import Signature
from kworker.errors import PluginError
from kworker.executors.base import Runnable


class Tasks:
    """What a child loads. `fault`: raised by its setup; `calls`: a file to note setup and teardown in."""

    def __init__(self, functions: Iterable[Callable[..., Any]], fault: str = "", calls: str = "") -> None:
        self.tasks: dict[str, Runnable] = {}
        self._fault = fault
        self._calls = calls
        for function in functions:
            for suffix, timeout in (("", 0.0), (".short", SHORT), (".half", 0.5)):
                spec = TaskSpec(function.__name__ + suffix, function, "process", timeout=timeout)
                self.tasks[spec.name] = SimpleNamespace(spec=spec, signature=Signature(spec))

    def setup(self) -> None:
        self._note("setup")
        if self._fault == "exit":
            os._exit(7)
        if self._fault:
            raise PluginError(self._fault)

    def teardown(self) -> None:
        self._note("teardown")

    def _note(self, call: str) -> None:
        if self._calls:
            with Path(self._calls).open("a") as file:
                file.write(f"{call} {os.getpid()}\n")


def load() -> Tasks:
    """The tasks of the contract."""
    return Tasks(contract_tasks.ALL)


def load_wild(fault: str = "", calls: str = "") -> Tasks:
    """Those of this file."""
    return Tasks(WILD, fault, calls)


def fail_to_load() -> Tasks:
    """As a plugin whose import fails."""
    raise ImportError("no module named so")


# -- tasks --------------------------------------------------------------------------------------------------------


def pid() -> int:
    """Which process runs it."""
    return os.getpid()


def nothing(n: int = 0) -> None:
    """Ends at once, with a plain success."""


def wait(folder: str, name: str) -> str:
    """Waits for its file."""
    return contract_tasks.hold(folder, name)


def exit(code: int) -> None:
    """Ends its process without a word."""
    os._exit(code)


def die(number: int) -> None:
    """A signal to itself."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def segfault() -> None:
    """Reads where nothing is."""
    ctypes.string_at(0)


def hang_in_c() -> None:
    """Holds the GIL in C code, where no signal reaches Python: it locks twice what can be locked once."""
    lock = ctypes.create_string_buffer(128)
    ctypes.PyDLL(None).pthread_mutex_lock(lock)
    ctypes.PyDLL(None).pthread_mutex_lock(lock)


def hang_noted(folder: str) -> None:
    """Hangs in C code after it has noted its process and when that was."""
    part = Path(folder, "hang.part")
    part.write_text(f"{os.getpid()} {time.monotonic()}")
    part.rename(Path(folder, "hang"))
    hang_in_c()


def hang_deaf() -> None:
    """Swallows what should end it."""
    while True:
        try:
            time.sleep(60)
        except BaseException:  # a plugin does what it likes
            continue


def hang_with_family(folder: str) -> None:
    """Leaves a process of its own behind."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    Path(folder, "family").write_text(str(child.pid))
    hang_deaf()


def eat() -> int:
    """More memory than there is for it."""
    return len(bytearray(1 << 40))


def spin() -> None:
    """Uses processor time, and nothing else."""
    while True:
        pass


def open_files(count: int) -> int:
    """Holds so many files open."""
    return len([open(os.devnull) for _ in range(count)])  # noqa: PTH123 - left open is the point


def keep(mib: int) -> None:
    """Leaks."""
    block = mmap.mmap(-1, mib << 20)
    block.write(b"x" * (mib << 20))
    _KEPT.append(block)


_KEPT: list[mmap.mmap] = []


class TwoArguments(Exception):
    """Cannot be made from its own `args`."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


def raise_unmakeable() -> None:
    """Raises what no pickle could bring back."""
    raise TwoArguments(1, 2)


def raise_surrogate() -> None:
    """Raises what no UTF-8 can hold."""
    raise ValueError("\udcff")


def give(what: str) -> object:
    """Returns any kind of thing."""
    return {
        "object": object(),
        "lambda": lambda: None,
        "lock": threading.Lock(),
        "huge": 1 << 200,
        "large": "x" * (20 << 20),
        "surrogate": "\udcff",
        "data": [Point(1, ["a"]), {"b": 2.5}, None],
        "mean": Mean(),
    }[what]


class Mean:
    def __repr__(self) -> str:
        raise SystemExit(4)


@dataclass
class Point:
    """What JSON can hold of a plugin's own."""

    x: int
    y: list[str]


def speak(folder: str, *, ctx: Context) -> None:
    """Says something in every way there is."""
    print("from print")
    print("from stderr", file=sys.stderr)
    os.write(1, b"from C\n")
    subprocess.run(["echo", "from a subprocess"], check=True)
    ctx.log.warning("from %s", "ctx.log")
    logging.getLogger("own.logger").info("from a logger of its own", extra={"width": 3})
    print("without an end", end="")


def mark(folder: str, n: int, then: str) -> str | None:
    """Notes that it ran, and ends in some way."""
    with Path(folder, "marks").open("a") as file:
        file.write(f"{n}\n")
    if then == "exit":
        os._exit(3)
    if then == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "hang":
        time.sleep(60)
    if then == "deaf":
        hang_deaf()
    if then == "raise":
        raise ValueError(n)
    if then == "print":
        print(n)
    return then if n % 7 == 0 else None


def murmur(n: int) -> None:
    """Prints its number."""
    print(f"number {n}")


def flood(kind: str, *, ctx: Context) -> str:
    """Says too much."""
    if kind == "print":
        for _ in range(64):
            print("x" * (1 << 20))
    for n in range(5_000 if kind == "log" else 0):
        ctx.log.info("line %d", n)
    return "done"


def spoil(what: str) -> str:
    """Spoils its process."""
    if what == "streams":
        os.close(1)
        os.close(2)
    elif what == "files":
        os.closerange(3, 256)
    elif what == "nonsense":
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                socket.socket(fileno=os.dup(fd)).sendall(b"\xff" * 64)
    elif what == "sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif what == "fork":
        os.fork()
    elif what == "logging":
        logging.getLogger("own").info("%d", "no number")
    return what


def publish(*, ctx: Context) -> str:
    """Publishes two."""
    ctx.publish("next", {"n": 1})
    ctx.publish("next", b"raw", key="k")
    return "published"


async def wait_async(seconds: float) -> str:
    """An async function in a process."""
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop().__class__.__name__


def threads_log(count: int, *, ctx: Context) -> int:
    """Many threads log while the task ends."""
    threads = [threading.Thread(target=partial(ctx.log.info, "a line of thread %d", n)) for n in range(count)]
    for thread in threads:
        thread.start()
    return count


WILD = (
    pid,
    nothing,
    wait,
    exit,
    die,
    segfault,
    hang_in_c,
    hang_noted,
    hang_deaf,
    hang_with_family,
    eat,
    spin,
    open_files,
    keep,
    raise_unmakeable,
    raise_surrogate,
    give,
    speak,
    mark,
    murmur,
    flood,
    spoil,
    publish,
    wait_async,
    threads_log,
)
