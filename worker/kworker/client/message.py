"""A message on its way to Kafka: what is published, where it is once acknowledged, and the error if it is not."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from kworker.client.delays import due
from kworker.core.delayed import delay
from kworker.core.publication import message as record_of
from kworker.errors import PublishError
from kworker.kafka.sender import Sender
from kworker.plugin import Schema
from kworker.schedules.moment import When
from kworker.task import Publication

if TYPE_CHECKING:
    from kworker.codecs.avro_schema import AvroSchema
    from kworker.tracing import Sending


class Message(Struct, frozen=True):
    """One message for `publish_many`; the fields are the arguments of `publish`.

    delay, at: it waits so many seconds (or `"10m"`), or until then, in the delay log.

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
    delay: float | str | None = None
    at: When | None = None


class Published(Struct, frozen=True):
    """Where an acknowledged message is, and its id."""

    topic: str
    partition: int
    offset: int
    id: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


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


class Composed(NamedTuple):
    """A message that can be sent, with what its errors tell."""

    publication: Publication
    task: str
    id: str
    span: Sending | None = None

    def error(self, reason: str) -> PublishError:
        """What is raised when it was not acknowledged; its span ends with it."""
        if self.span is not None:
            self.span.failed(reason)
        return PublishError(f"{self.task!r} was not published: {reason}", id=self.id)


def compose(message: Message, topic: str, *, tracing: bool = False, delay_log: str = "") -> Composed:
    """The record of a message; topic: where it goes if it names none. tracing: it begins, or goes on, a trace.

    delay_log: where it waits if it is due later; '': it cannot. Raises ValueError or TypeError.
    """
    when = due(message.delay, message.at, time.time())
    composed = _composed(message, topic, tracing)
    if when is None:
        return composed
    if not delay_log:
        raise ValueError(f"{message.task!r} cannot be delayed here: its result is waited for")
    return composed._replace(publication=delay(composed.publication, composed.id, when, delay_log))


def _composed(message: Message, topic: str, tracing: bool) -> Composed:
    id = uuid.uuid4().hex if message.id is None else message.id
    if message.schema is not None or message.schema_id is not None:
        message = as_avro(message)
    publication = _record(message, message.topic or topic, id)
    if not tracing:
        return Composed(publication, message.task, id)
    from kworker.tracing import Sending  # late: it needs an extra

    span = Sending(publication.topic, message.task, id)
    given = dict(publication.headers)
    publication.headers.extend((name, text.encode()) for name, text in span.headers.items() if name not in given)
    return Composed(publication, message.task, id, span)


def _record(message: Message, topic: str, id: str) -> Publication:
    return record_of(
        message.task,
        message.payload,
        topic=topic,
        key=message.key,
        id=id,
        headers=message.headers,
        now=time.time(),
    )


def settle(
    sender: Sender,
    message: Composed,
    future: Future[Published] | asyncio.Future[Published],
    error: KafkaError | None,
    record: Any,
) -> None:
    """Tell a publisher what became of its message, by the delivery report of the Kafka client."""
    if error is None and message.span is not None:
        message.span.written(record.partition(), record.offset())
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


def all_published(results: list[Published | PublishError]) -> list[Published]:
    """The results, when all were acknowledged; else raises one PublishError for all of them."""
    published = [result for result in results if isinstance(result, Published)]
    if len(published) == len(results):
        return published
    number, first = next((n, r) for n, r in enumerate(results, 1) if isinstance(r, PublishError))
    failed = len(results) - len(published)
    raise PublishError(
        f"{failed} of {len(results)} messages were not acknowledged; the first is number {number}: {first}",
        results=results,
    )
