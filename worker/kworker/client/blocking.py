"""`Client`: publishes and calls tasks; it blocks until there is an answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kworker.client.calls import Sent, pass_on, prepare
from kworker.client.delays import Delays, verdict
from kworker.client.message import Composed, Message, Published, all_published, compose, settle
from kworker.client.schedules import Schedules
from kworker.core.delayed import Delayed
from kworker.duration import seconds
from kworker.errors import CallError, PublishError
from kworker.kafka.replies import Replies
from kworker.kafka.sender import POLL, Sender
from kworker.plugin import Schema
from kworker.schedules.moment import When

if TYPE_CHECKING:
    from kworker.codecs.avro_schema import AvroSchema


class Client:
    """Publishes tasks and waits for the broker's acknowledgement; threads may share one.

    with Client("127.0.0.1:9092") as client:
        client.publish("thumbnail", {"path": "a.jpg"}, key="a")

    bootstrap: `host:port`, or several with commas. topic: where messages go that name none. kafka: librdkafka
    properties, such as `security.protocol`; a topic that takes less than 1 MB needs a `batch.size` below its limit, as
    the broker refuses a batch as a whole. timeout: seconds (or `"30s"`) until a message that was not acknowledged
    counts as failed. reply_topic: where `call` reads results; one for a service does, each client reads it from its
    end. tracing: a span of OpenTelemetry for each message (extra `otel`), which its attempts go on from.
    namespace: the workers', for delayed tasks and schedules. Raises
    ConfigError for properties that are unsafe or unknown.
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
        self.delays = Delays(bootstrap, kafka or {}, namespace, self._sender)
        """The delay log."""
        self.schedules = Schedules(self.delays, self._sender, topic)
        """Tasks that are published at their times: add, ls, pause, resume, run, remove."""
        self._replies = Replies(bootstrap, kafka or {})

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sender.close(discard=error is not None)
        self._replies.close()

    def close(self) -> None:
        """Send what is still queued, within the timeout, and end the client; calls that wait fail."""
        self._sender.close()
        self._replies.close()

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
        delay: float | str | None = None,
        at: When | None = None,
    ) -> Published:
        """Publish one message; returns when the broker has acknowledged it.

        payload: anything JSON can hold (msgspec's types), bytes as they are, or None for no payload. id: made up
        unless given. schema: the Avro schema to write the payload by, in single-object encoding, or in Confluent
        framing with the `schema_id` that a schema registry gave it. delay, at: seconds (or `"10m"`) for which it waits
        in the delay log, or the moment it is due (a datetime with a time zone, RFC 3339 text, or seconds since the
        epoch); the same `id` again moves it. Raises PublishError when it was not acknowledged, ValueError or TypeError
        for what cannot be sent, DelayError when there is no delay log and none can be made.
        """
        return self._wait(
            self._send(
                compose(
                    Message(task, payload, topic, key, id, headers, schema, schema_id, delay, at),
                    self._topic,
                    tracing=self._tracing,
                    delay_log=self.delays.log,
                )
            )
        )

    def call(
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
        """Publish one message and wait for what its task returns: JSON decoded, any other type as bytes.

        timeout: seconds (or `"10s"`) for all of it; the client's unless given. reply_to: a reply topic other than the
        client's; it must exist, and the workers must allow it (`--reply-topic`). dead_letters: the topic that tells of
        a task that failed for good, `<topic>.dlq` unless given; `""` looks at none. The rest is as for `publish`.

        Raises TaskFailed when the task became a dead letter; CallTimeout (a TimeoutError) when nothing came in time:
        the task may still run, and a task that is called again, with the same `id` or not, may run twice; CallError
        when replies cannot be read; and what `publish` raises.
        """
        call = prepare(
            Message(task, payload, topic, key, id, headers, schema, schema_id),
            self._topic,
            reply_to or self._reply_topic,
            dead_letters,
            self._sender.timeout if timeout is None else timeout,
            tracing=self._tracing,
        )
        self._sender.check()
        sent: Sent | None = None
        try:
            with self._replies.expect(call.awaited) as answer:
                # Order: expected first: a reply topic that may not be read is told to those who wait, once.
                topics = (call.awaited.reply_topic, call.awaited.dead_letters)
                self._replies.follow(*topics, call.deadline).result(call.left)
                sent = self._send(call.message)
                sent.add_done_callback(partial(pass_on, answer))
                answered = answer.result(call.left)
        except TimeoutError:
            raise call.late(sent, self._sender, self._replies) from None
        except CallError as error:
            raise call.failed(sent, error) from error
        return call.result(answered)

    def publish_many(self, messages: Iterable[Message]) -> list[Published]:
        """Publish many messages in batches; returns when all are acknowledged: one result a message, in order.

        All of them are tried; when any was not acknowledged, raises a PublishError whose `results` tell them apart.
        When one cannot be sent at all, raises ValueError or TypeError and sends none.
        """
        composed = [
            compose(message, self._topic, tracing=self._tracing, delay_log=self.delays.log) for message in messages
        ]
        futures = [self._send(message) for message in composed]
        return all_published([self._result(future) for future in futures])

    def cancel(self, id: str, *, timeout: float | str = 10.0) -> str:
        """Cancel a delayed task. `"cancelled"`: it does not run. `"too-late"`: it was handed over. `"unknown"`: no such
        task waits, and none did in the last hour.

        A worker decides, so that a task is never both cancelled and run. Raises DelayError when none answers in time.
        """
        within = seconds(timeout)
        (answer,) = self.delays.cancel([id], within)
        return verdict(id, answer, within, self.delays.log)

    def delayed(self, limit: int = 100) -> list[Delayed]:
        """The delayed tasks that are due first, at most `limit`. Reads all of the delay log. Raises DelayError."""
        return self.delays.waiting(limit)

    def find_delayed(self, id: str) -> Delayed | None:
        """The delayed task of this id, None if none waits. Reads all of the delay log. Raises DelayError."""
        return self.delays.find(id)

    def _send(self, message: Composed) -> Future[Published]:
        if message.publication.topic == self.delays.log:
            self.delays.make_ready()
        future: Future[Published] = Future()
        report = partial(settle, self._sender, message, future)
        deadline = time.monotonic() + self._sender.budget
        while not self._sender.send(message.publication, report):
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
