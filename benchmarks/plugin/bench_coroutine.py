"""The body `sleep` as a task of kworker's coroutine executor; see bench_thread.py."""

from __future__ import annotations

import asyncio

from benchmarks import bodies

from kworker import task


@task("bench.sleep.coroutine")
async def sleep(n: int, ms: float, pad: str) -> None:
    """bodies.sleep in asyncio."""
    if ms:
        await asyncio.sleep(ms / 1000)
    bodies.MARKS[n] += 1


@task("bench.noted.coroutine")
async def noted(n: int, ms: float, pad: str) -> None:
    """bodies.noted in asyncio."""
    await asyncio.sleep(ms / 1000)
    bodies.timed(n, ms, pad)
