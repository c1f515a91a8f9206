"""What a worker holds of the machine: memory, descriptors, threads, processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import psutil

from kit.worker_process import WorkerProcess


@dataclass(frozen=True, slots=True)
class Vitals:
    """Taken at one moment. resident: bytes, of the worker alone."""

    resident: int
    descriptors: int
    threads: int
    processes: int

    @classmethod
    def of(cls, worker: WorkerProcess) -> Self:
        """Those of a living worker."""
        process = psutil.Process(worker.pid)
        return cls(worker.resident(), process.num_fds(), process.num_threads(), len(family(worker)))

    def __str__(self) -> str:
        parts = f"{self.descriptors} descriptors, {self.threads} threads, {self.processes} processes"
        return f"{self.resident >> 20} MiB, {parts}"


def family(worker: WorkerProcess) -> list[psutil.Process]:
    """All processes below a worker; none when it has ended."""
    try:
        return psutil.Process(worker.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether none of these lives any more."""
    return not any(_lives(process) for process in processes)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
