"""The worker's producer: forwards go out idempotent, acknowledged by all replicas, and every answer is posted back.

Owns the Producer and one thread that serves its delivery reports. Promises: each forward that was sent is answered by
exactly one result in a Forwarded event, an acknowledgement or a Refusal.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kworker.core.events import Forwarded, Refusal
from kworker.core.forward import Forward

log = logging.getLogger(__name__)
_retries_log = logging.getLogger("kworker.retries")  # rate-limited as well
_client_log = logging.getLogger("kworker.client")  # what librdkafka reports; rate-limited by the worker

_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE}
_NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


class ForwardProducer:
    """Writes forwards. `post`: hands a Forwarded to the loop; `fatal`: is told once why the client cannot go on."""

    def __init__(
        self,
        settings: Mapping[str, object],
        post: Callable[[Forwarded], None],
        fatal: Callable[[str], None],
    ) -> None:
        self._post = post
        self._fatal = fatal
        self._answers: list[tuple[Forward, Refusal | None]] = []
        self._producer = Producer({**settings, "error_cb": self._on_error, "logger": _client_log})
        self._stopping = False
        self.last_poll = time.monotonic()
        """When its thread last served delivery reports."""
        self._thread = threading.Thread(target=self._serve, name="kworker-producer", daemon=True)

    def start(self) -> None:
        """Start serving delivery reports."""
        self._thread.start()

    def send(self, forwards: Sequence[Forward]) -> None:
        """Write these records. Does not block: what the client cannot take now is answered as refused."""
        refused: list[tuple[Forward, Refusal | None]] = []
        for forward in forwards:
            record = forward.publication
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    on_delivery=functools.partial(self._delivered, forward),
                )
            except BufferError:
                refused.append((forward, Refusal.OTHER))
            except KafkaException as error:
                refused.append((forward, self._refusal(forward, error.args[0])))
        if refused:
            self._post(Forwarded(refused))

    def stop(self, timeout: float) -> int:
        """Write what is queued and end; returns how many records were not acknowledged within `timeout` seconds."""
        left: int = self._producer.flush(timeout)
        self._stopping = True
        self._thread.join(1.0)
        return left

    def _serve(self) -> None:
        while not self._stopping:
            self._producer.poll(0.5)
            self.last_poll = time.monotonic()
            # Callbacks of one poll ran in this thread; they are posted together.
            if self._answers:
                answers, self._answers = self._answers, []
                self._post(Forwarded(answers))

    def _delivered(self, forward: Forward, error: KafkaError | None, message: Message) -> None:
        self._answers.append((forward, None if error is None else self._refusal(forward, error)))

    def _refusal(self, forward: Forward, error: KafkaError) -> Refusal:
        told = {"topic": forward.publication.topic, "id": forward.entry.task.id, "error": error.str()}
        if forward.due is not None:
            _retries_log.warning("the delay log did not take a retry: it waits in memory", extra=told)
        else:
            log.warning("the broker did not take a record; it is tried again", extra=told)
        if error.code() in _TOO_LARGE:
            return Refusal.TOO_LARGE
        if error.code() in _NO_TOPIC:
            return Refusal.NO_TOPIC
        return Refusal.OTHER

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal(f"producer: {error.str()}")
        else:
            _client_log.warning(f"producer: {error.str()}")
