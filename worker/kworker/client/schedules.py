"""The schedules in the delay log, for a client: added, listed, paused, run and removed.

A schedule stands in the log as one record (core/scheduled.py), so a change is a record that is written, and the owner
of its partition obeys it from when it has read it. Promise: of two changes at once one counts, whole.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kworker.client.delays import Delays
from kworker.client.message import Composed, Published, settle
from kworker.core.applying import replaced
from kworker.core.delayed import Answer
from kworker.core.scheduled import BARRIER, check, key_of, occurrence, record
from kworker.duration import seconds
from kworker.errors import DelayError, PublishError
from kworker.kafka.sender import Sender
from kworker.schedules.given import read
from kworker.schedules.moment import When
from kworker.schedules.schedule import Schedule, Standing
from kworker.task import Publication

if TYPE_CHECKING:
    from kworker.kafka.standings import Stood


class Schedules:
    """See the module. Every method blocks, and raises DelayError when the delay log cannot be used; any thread may ask.

    with Client("127.0.0.1:9092") as client:
        client.schedules.add("nightly", "report.build", {"days": 1}, cron="0 3 * * *", tz="Europe/Berlin")
    """

    def __init__(self, delays: Delays, sender: Sender, topic: str) -> None:
        self._delays = delays
        self._sender = sender
        self._topic = topic

    def add(
        self,
        name: str,
        task: str,
        payload: object = None,
        *,
        cron: str | None = None,
        tz: str | None = None,
        every: float | str | None = None,
        at: When | None = None,
        topic: str | None = None,
        key: str | None = None,
        jitter: float | str | None = None,
        misfire: str | None = None,
        most: int | None = None,
    ) -> Standing:
        """Add a schedule, or replace the one of this name; returns how it stands: `next` is when it is due.

        cron: minute hour day-of-month month day-of-week, in the time zone `tz` (UTC unless given). every: seconds, or
        `"10m"`, a second or more, counted from the epoch. at: once, at this moment. payload: anything JSON can hold.
        topic: the client's unless given. jitter: each run is put off by a part of it. misfire: what becomes of the
        times that passed while no worker was there: the latest is run (`once`, the default), the latest `most` are
        (`all`), or those that are late by more than a minute are not (`skip`). Raises ValueError with every fault.
        """
        given = {"cron": cron, "tz": tz, "every": every, "at": at, "task": task, "payload": payload}
        given |= {"topic": topic or self._topic, "key": key, "jitter": jitter, "misfire": misfire, "most": most}
        return self.put(read(name, given, now=time.time()))[0]

    def put(self, schedule: Schedule) -> tuple[Standing, Standing | None]:
        """Add a schedule, or replace the one of its name; returns how it stands, and what it replaced.

        One that is not due any more raises ValueError."""
        check(schedule)
        if next(schedule.trigger.after(time.time()), None) is None:
            raise ValueError(f"schedule {schedule.name}: it is not due any more: that time has passed")
        self._delays.make_ready()
        found = self._delays.schedules()
        before = found.by_name.get(schedule.name)
        for partition, key in found.requests.get(schedule.name, ()):
            # Nobody answered: the next owner would remove what is added now.
            self._write(Publication(self._delays.log, key, None, []), schedule.name, partition)
        now = time.time()
        standing = Standing.begin(schedule, now) if before is None else replaced(schedule, before.standing, now)
        self._stand(standing, before)
        return standing, before and before.standing

    def ls(self) -> list[Standing]:
        """All schedules and how they stand, by name. Reads all of the delay log."""
        return [found.standing for _, found in sorted(self._delays.schedules().by_name.items())]

    def remove(self, name: str, *, timeout: float | str = 10.0) -> str:
        """`"removed"`, or `"unknown"`: there is none of this name. A worker decides, so that afterwards nothing of it
        runs. Raises DelayError when none answers in time: then the next one that comes removes it."""
        within = seconds(timeout)
        stands = self._delays.schedules()
        if name not in stands.by_name and name not in stands.newer:
            return "unknown"
        (answer,) = self._delays.cancel([key_of(name).decode()], within)
        if answer is None:
            raise DelayError(
                f"no worker answered within {within:g} s that the schedule {name!r} is removed: the request stays in "
                f"{self._delays.log!r}, and a worker that comes obeys it"
            )
        return "removed" if answer is Answer.CANCELLED else "unknown"

    def pause(self, name: str, *, timeout: float | str = 10.0) -> Standing:
        """Have it wait for nothing until it is resumed. A worker says when it has read that, so that afterwards nothing
        of it runs. Raises DelayError when there is none of this name, or no worker answers in time: then the next one
        that comes obeys it."""
        within = seconds(timeout)
        standing = self._change(name, paused=True)
        if self._delays.cancel([BARRIER], within) == [None]:
            raise DelayError(
                f"no worker answered within {within:g} s that it has read that the schedule {name!r} is paused: that "
                f"stays in {self._delays.log!r}, and a worker that comes obeys it"
            )
        return standing

    def resume(self, name: str) -> Standing:
        """Have it wait for its next time again; what was due meanwhile is not run. Raises DelayError as `pause`."""
        return self._change(name, paused=False)

    def run(self, name: str) -> Published:
        """Publish its task now, beside its times, paused or not. Raises DelayError as `pause`, PublishError."""
        schedule = self._find(name).standing.schedule
        now = round(time.time(), 3)
        return self._send(Composed(occurrence(schedule, now), schedule.task, schedule.occurrence(now)))

    def _change(self, name: str, *, paused: bool) -> Standing:
        stood = self._find(name)
        schedule = stood.standing.schedule
        if schedule.paused is paused:
            return stood.standing
        standing = replaced(replace(schedule, paused=paused), stood.standing, time.time())
        self._stand(standing, stood)
        return standing

    def _find(self, name: str) -> Stood:
        found = self._delays.schedules().by_name.get(name)
        if found is None:
            raise DelayError(f"there is no schedule {name[:100]!r}: `kworker schedule ls` lists them")
        return found

    def _stand(self, standing: Standing, before: Stood | None) -> None:
        """Write it, to where the one before stands: the log may have been given partitions since."""
        name = standing.schedule.name
        self._write(record(standing, self._delays.log), name, -1 if before is None else before.partition)

    def _write(self, publication: Publication, name: str, partition: int) -> None:
        try:
            self._send(Composed(publication, f"schedule {name}", name), partition)
        except PublishError as error:
            raise DelayError(str(error)) from error

    def _send(self, message: Composed, partition: int = -1) -> Published:
        future: Future[Published] = Future()
        if not self._sender.send(message.publication, partial(settle, self._sender, message, future), partition):
            raise message.error("the queue of the Kafka client is full")
        try:
            return future.result(self._sender.budget)
        except TimeoutError:
            raise message.error("no answer from the Kafka client in time; it may have been written") from None


class AsyncSchedules:
    """`Schedules` for asyncio: the same methods, awaited; nothing blocks the event loop."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def add(
        self,
        name: str,
        task: str,
        payload: object = None,
        *,
        cron: str | None = None,
        tz: str | None = None,
        every: float | str | None = None,
        at: When | None = None,
        topic: str | None = None,
        key: str | None = None,
        jitter: float | str | None = None,
        misfire: str | None = None,
        most: int | None = None,
    ) -> Standing:
        """Add a schedule, or replace the one of this name. See `Schedules.add`."""
        add = partial(self._schedules.add, name, task, payload, cron=cron, tz=tz, every=every, at=at, topic=topic)
        return await asyncio.to_thread(add, key=key, jitter=jitter, misfire=misfire, most=most)

    async def ls(self) -> list[Standing]:
        """All schedules and how they stand, by name. See `Schedules.ls`."""
        return await asyncio.to_thread(self._schedules.ls)

    async def remove(self, name: str, *, timeout: float | str = 10.0) -> str:
        """`"removed"` or `"unknown"`. See `Schedules.remove`."""
        return await asyncio.to_thread(self._schedules.remove, name, timeout=timeout)

    async def pause(self, name: str, *, timeout: float | str = 10.0) -> Standing:
        """Have it wait for nothing until it is resumed. See `Schedules.pause`."""
        return await asyncio.to_thread(self._schedules.pause, name, timeout=timeout)

    async def resume(self, name: str) -> Standing:
        """Have it wait for its next time again. See `Schedules.resume`."""
        return await asyncio.to_thread(self._schedules.resume, name)

    async def run(self, name: str) -> Published:
        """Publish its task now. See `Schedules.run`."""
        return await asyncio.to_thread(self._schedules.run, name)
