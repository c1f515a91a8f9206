"""`AsyncClient`: `Client` for asyncio; nothing blocks the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

from kworker.client.calls import pass_on, prepare
from kworker.client.delays import Delays, verdict
from kworker.client.message import Composed, Message, Published, all_published, compose, settle
from kworker.client.schedules import AsyncSchedules, Schedules
from kworker.core.delayed import Delayed
from kworker.duration import seconds
from kworker.errors import CallError, PublishError
from kworker.kafka.replies import Replies
from kworker.kafka.sender import Sender
from kworker.plugin import Schema
from kworker.schedules.moment import When

if TYPE_CHECKING:
    from kworker.codecs.avro_schema import AvroSchema


class AsyncClient:
    """`Client` for asyncio: `publish` awaits the acknowledgement; nothing blocks the event loop.

    async with AsyncClient("127.0.0.1:9092") as client:
        await client.publish("thumbnail", {"path": "a.jpg"}, key="a")

    Publish concurrently (`asyncio.gather`, `publish_many`) for throughput. It belongs to the event loop that first
    publishes with it.
    """

    def __init__(
        self,
        bootstrap: str = "127.0.0.1:9092",
        *,
        topic: str = "tasks",
        kafka: Mapping[str, str] | None = None,
        timeout: float | str = 30.0,
        reply_topic: str | None = None,
        tracing: bool = False,
        namespace: str = "kworker",
    ) -> None:
        self._topic = topic
        self._tracing = tracing
        self._reply_topic = reply_topic
        self._sender = Sender(bootstrap, kafka or {}, seconds(timeout))
        self._delays = Delays(bootstrap, kafka or {}, namespace, self._sender)
        self.schedules = AsyncSchedules(Schedules(self._delays, self._sender, topic))
        """Tasks that are published at their times: add, ls, pause, resume, run, remove."""
        self._replies = Replies(bootstrap, kafka or {})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reports: deque[Callable[[], None]] = deque()
        self._awake = False
        self._room = asyncio.Event()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._sender.close, discard=error is not None)
        await asyncio.to_thread(self._replies.close)

    async def close(self) -> None:
        """Send what is still queued, within the timeout, and end the client; calls that wait fail."""
        await asyncio.to_thread(self._sender.close)
        await asyncio.to_thread(self._replies.close)

    async def publish(
        self,
        task: str,
        payload: object = None,
        *,
        topic: str | None = None,
        key: str | bytes | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        schema: Schema | AvroSchema | None = None,
        schema_id: int | None = None,
        delay: float | str | None = None,
        at: When | None = None,
    ) -> Published:
        """Publish one message; returns when the broker has acknowledged it. See `Client.publish`."""
        composed = compose(
            Message(task, payload, topic, key, id, headers, schema, schema_id, delay, at),
            self._topic,
            tracing=self._tracing,
            delay_log=self._delays.log,
        )
        return await self._wait(await self._send(composed))

    async def call(
        self,
        task: str,
        payload: object = None,
        *,
        timeout: float | str | None = None,
        topic: str | None = None,
        key: str | bytes | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        schema: Schema | AvroSchema | None = None,
        schema_id: int | None = None,
        reply_to: str | None = None,
        dead_letters: str | None = None,
    ) -> Any:
        """Publish one message and await what its task returns. See `Client.call`."""
        call = prepare(
            Message(task, payload, topic, key, id, headers, schema, schema_id),
            self._topic,
            reply_to or self._reply_topic,
            dead_letters,
            self._sender.timeout if timeout is None else timeout,
            tracing=self._tracing,
        )
        self._sender.check()
        awaited, sent = call.awaited, None
        try:
            async with asyncio.timeout(call.left):
                with self._replies.expect(awaited) as answer:
                    # Order: as in `Client.call`.
                    topics = (awaited.reply_topic, awaited.dead_letters)
                    await asyncio.wrap_future(self._replies.follow(*topics, call.deadline))
                    sent = await self._send(call.message)
                    sent.add_done_callback(partial(pass_on, answer))
                    answered = await asyncio.wrap_future(answer)
        except TimeoutError:
            raise call.late(sent, self._sender, self._replies) from None
        except CallError as error:
            raise call.failed(sent, error) from error
        return call.result(answered)

    async def publish_many(self, messages: Iterable[Message]) -> list[Published]:
        """Publish many messages in batches; returns when all are acknowledged. See `Client.publish_many`."""
        composed = [
            compose(message, self._topic, tracing=self._tracing, delay_log=self._delays.log) for message in messages
        ]
        futures = [await self._send(message) for message in composed]
        return all_published([await self._result(future) for future in futures])

    async def cancel(self, id: str, *, timeout: float | str = 10.0) -> str:
        """Cancel a delayed task. See `Client.cancel`."""
        within = seconds(timeout)
        (answer,) = await asyncio.to_thread(self._delays.cancel, [id], within)
        return verdict(id, answer, within, self._delays.log)

    async def delayed(self, limit: int = 100) -> list[Delayed]:
        """The delayed tasks that are due first, at most `limit`. See `Client.delayed`."""
        return await asyncio.to_thread(self._delays.waiting, limit)

    async def find_delayed(self, id: str) -> Delayed | None:
        """The delayed task of this id, None if none waits. See `Client.find_delayed`."""
        return await asyncio.to_thread(self._delays.find, id)

    async def _send(self, message: Composed) -> asyncio.Future[Published]:
        if message.publication.topic == self._delays.log:
            await asyncio.to_thread(self._delays.make_ready)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this AsyncClient belongs to another event loop: make one for each")
        future: asyncio.Future[Published] = loop.create_future()
        report = partial(self._report, partial(settle, self._sender, message, future))
        try:
            async with asyncio.timeout(self._sender.budget):
                while not self._sender.send(message.publication, report):
                    self._room.clear()  # _drain, on this same event loop, sets it after each batch of reports
                    await self._room.wait()
        except TimeoutError:
            future.set_exception(message.error("the queue of the Kafka client stayed full"))
        return future

    async def _wait(self, future: asyncio.Future[Published]) -> Published:
        try:
            async with asyncio.timeout(self._sender.budget):
                return await future
        except TimeoutError:
            raise PublishError("no answer from the Kafka client in time; the message may have been written") from None

    async def _result(self, future: asyncio.Future[Published]) -> Published | PublishError:
        try:
            return await self._wait(future)
        except PublishError as error:
            return error

    def _report(self, settle: Callable[..., None], error: KafkaError | None, record: Any) -> None:
        # In the poll thread. One wake-up of the event loop serves all reports that came meanwhile.
        self._reports.append(partial(settle, error, record))
        if self._awake or self._loop is None:
            return
        self._awake = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._reports.clear()  # the event loop has ended: nobody waits any more

    def _drain(self) -> None:
        self._awake = False
        while self._reports:
            self._reports.popleft()()
        self._room.set()
