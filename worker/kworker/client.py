"""Publish tasks from Python: `Client`, and `AsyncClient`, its asyncio twin.

Each owns one idempotent producer (`acks=all`) and one thread that serves its delivery reports. What `publish` returns
has been acknowledged by every in-sync replica; anything else is a `PublishError` with the broker's reason.

Fork: a client does not survive one (its threads and sockets stay with the parent). Make it after the fork, in each
process of a pre-forking server; a client used in a child raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from kworker.core.publication import message as compose
from kworker.duration import seconds
from kworker.errors import PublishError
from kworker.kafka.sender import POLL, Sender
from kworker.plugin import Schema
from kworker.task import Publication

if TYPE_CHECKING:
    from kworker.codecs.avro_schema import AvroSchema


class Message(Struct, frozen=True):
    """One message for `publish_many`; the fields are the arguments of `publish`.

    schema: an Avro schema compiled already saves compiling it again for each message.
    """

    task: str
    payload: object = None
    topic: str | None = None
    key: str | bytes | None = None
    id: str | None = None
    headers: Mapping[str, str | bytes] | None = None
    schema: Schema | AvroSchema | None = None
    schema_id: int | None = None


class Published(Struct, frozen=True):
    """Where an acknowledged message is, and its id."""

    topic: str
    partition: int
    offset: int
    id: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Client:
    """Publishes tasks and waits for the broker's acknowledgement; threads may share one.

    with Client("127.0.0.1:9092") as client:
        client.publish("thumbnail", {"path": "a.jpg"}, key="a")

    bootstrap: `host:port`, or several with commas. topic: where messages go that name none. kafka: librdkafka
    properties, such as `security.protocol`; a topic that takes less than 1 MB needs a `batch.size` below its limit, as
    the broker refuses a batch as a whole. timeout: seconds (or `"30s"`) until a message that was not acknowledged
    counts as failed. Raises ConfigError for properties that are unsafe or unknown.
    """

    def __init__(
        self,
        bootstrap: str = "127.0.0.1:9092",
        *,
        topic: str = "tasks",
        kafka: Mapping[str, str] | None = None,
        timeout: float | str = 30.0,
    ) -> None:
        self._topic = topic
        self._sender = Sender(bootstrap, kafka or {}, seconds(timeout))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sender.close(discard=error is not None)

    def close(self) -> None:
        """Send what is still queued, within the timeout, and end the client."""
        self._sender.close()

    def publish(
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
    ) -> Published:
        """Publish one message; returns when the broker has acknowledged it.

        payload: anything JSON can hold (msgspec's types), bytes as they are, or None for no payload. id: made up
        unless given. schema: the Avro schema to write the payload by, in single-object encoding, or in Confluent
        framing with the `schema_id` that a schema registry gave it. Raises PublishError when it was not acknowledged,
        ValueError or TypeError for what cannot be sent.
        """
        return self._wait(
            self._send(_compose(Message(task, payload, topic, key, id, headers, schema, schema_id), self._topic))
        )

    def publish_many(self, messages: Iterable[Message]) -> list[Published]:
        """Publish many messages in batches; returns when all are acknowledged: one result a message, in order.

        All of them are tried; when any was not acknowledged, raises a PublishError whose `results` tell them apart.
        When one cannot be sent at all, raises ValueError or TypeError and sends none.
        """
        composed = [_compose(message, self._topic) for message in messages]
        futures = [self._send(message) for message in composed]
        return _all_published([self._result(future) for future in futures])

    def _send(self, message: _Composed) -> Future[Published]:
        future: Future[Published] = Future()
        settle = partial(_settle, self._sender, message, future)
        deadline = time.monotonic() + self._sender.budget
        while not self._sender.send(message.publication, settle):
            if time.monotonic() > deadline:
                future.set_exception(message.error("the queue of the Kafka client stayed full"))
                break
            self._sender.producer.poll(POLL)  # returns when a message has left the queue
        return future

    def _wait(self, future: Future[Published]) -> Published:
        try:
            return future.result(self._sender.budget)
        except TimeoutError:
            raise PublishError("no answer from the Kafka client in time; the message may have been written") from None

    def _result(self, future: Future[Published]) -> Published | PublishError:
        try:
            return self._wait(future)
        except PublishError as error:
            return error


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
    ) -> None:
        self._topic = topic
        self._sender = Sender(bootstrap, kafka or {}, seconds(timeout))
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

    async def close(self) -> None:
        """Send what is still queued, within the timeout, and end the client."""
        await asyncio.to_thread(self._sender.close)

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
    ) -> Published:
        """Publish one message; returns when the broker has acknowledged it. See `Client.publish`."""
        composed = _compose(Message(task, payload, topic, key, id, headers, schema, schema_id), self._topic)
        return await self._wait(await self._send(composed))

    async def publish_many(self, messages: Iterable[Message]) -> list[Published]:
        """Publish many messages in batches; returns when all are acknowledged. See `Client.publish_many`."""
        composed = [_compose(message, self._topic) for message in messages]
        futures = [await self._send(message) for message in composed]
        return _all_published([await self._result(future) for future in futures])

    async def _send(self, message: _Composed) -> asyncio.Future[Published]:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this AsyncClient belongs to another event loop: make one for each")
        future: asyncio.Future[Published] = loop.create_future()
        report = partial(self._report, partial(_settle, self._sender, message, future))
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


def as_avro(message: Message) -> Message:
    """The same message with its payload written by its schema. Raises ValueError for what does not fit."""
    from kworker.codecs.avro import AVRO  # late: most publishers write JSON
    from kworker.codecs.avro_schema import AvroSchema
    from kworker.codecs.avro_write import write

    try:
        if message.schema is None:
            raise ValueError("schema_id is the id of a schema: give the schema as well")
        schema = message.schema if isinstance(message.schema, AvroSchema) else AvroSchema(message.schema)
        payload = write(schema, message.payload, schema_id=message.schema_id)
    except ValueError as error:
        raise ValueError(f"cannot publish {message.task!r}: {error}") from error
    headers = {**(message.headers or {}), "content-type": AVRO}
    return replace(message, payload=payload, headers=headers, schema=None, schema_id=None)


class _Composed(NamedTuple):
    publication: Publication
    task: str
    id: str

    def error(self, reason: str) -> PublishError:
        return PublishError(f"{self.task!r} was not published: {reason}", id=self.id)


def _compose(message: Message, topic: str) -> _Composed:
    id = uuid.uuid4().hex if message.id is None else message.id
    if message.schema is not None or message.schema_id is not None:
        message = as_avro(message)
    publication = compose(
        message.task,
        message.payload,
        topic=message.topic or topic,
        key=message.key,
        id=id,
        headers=message.headers,
        now=time.time(),
    )
    return _Composed(publication, message.task, id)


def _settle(
    sender: Sender,
    message: _Composed,
    future: Future[Published] | asyncio.Future[Published],
    error: KafkaError | None,
    record: Any,
) -> None:
    if future.done():
        return  # its publisher was cancelled
    if error is None:
        future.set_result(Published(record.topic(), record.partition(), record.offset(), message.id))
        return
    reason = error.str()
    if error.code() == KafkaError._MSG_TIMED_OUT:
        complaint = f" ({sender.complaint})" if sender.complaint else ""
        reason = f"no acknowledgement within {sender.timeout:g} s{complaint}; it may have been written all the same"
    elif error.fatal() or error.code() == KafkaError._FATAL:  # librdkafka's _FATAL does not count as fatal()
        reason += "; this client cannot go on: make a new one"
    future.set_exception(message.error(reason))


def _all_published(results: list[Published | PublishError]) -> list[Published]:
    published = [result for result in results if isinstance(result, Published)]
    if len(published) == len(results):
        return published
    number, first = next((n, r) for n, r in enumerate(results, 1) if isinstance(r, PublishError))
    failed = len(results) - len(published)
    raise PublishError(
        f"{failed} of {len(results)} messages were not acknowledged; the first is number {number}: {first}",
        results=results,
    )
