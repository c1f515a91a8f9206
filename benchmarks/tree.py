"""What a process and all its descendants take of the machine, read from outside."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a whole tree. proportional: PSS, shared pages counted once; resident: RSS, counted in each process."""

    proportional: int = 0
    resident: int = 0

    def peak(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(max(self.proportional, other.proportional), max(self.resident, other.resident))


class Tree:
    """The process `pid` and what descends from it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu(self) -> float:
        """Seconds of processor time so far, user and system, of the dead ones that were waited for, too."""
        times = [found for process in self._living() if (found := _cpu(process)) is not None]
        return sum(times)

    def memory(self) -> Memory:
        """What they hold now."""
        held = [found for process in self._living() if (found := _memory(process)) is not None]
        return Memory(sum(one.proportional for one in held), sum(one.resident for one in held))

    def resident(self) -> int:
        """RSS of the process itself, without its descendants, in bytes."""
        return int(self._root.memory_info().rss)

    def _living(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _cpu(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return _own(process.pid, times.user + times.system) + times.children_user + times.children_system


def _own(pid: int, coarse: float) -> float:
    """Seconds of a process itself, in nanoseconds where the system has a clock for it: /proc counts hundredths."""
    if sys.platform != "linux":
        return coarse
    try:
        return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns
    except OSError:  # it has just ended
        return coarse


def _memory(process: psutil.Process) -> Memory | None:
    try:
        info = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    return Memory(info.pss, info.rss)
