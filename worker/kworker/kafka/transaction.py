"""Writes batches of records, each in one transaction: all of it is there, or nothing; one writer a name.

Owns a transactional Producer. Promises: when `start` returns, an earlier writer of the name is fenced, what it left
open is undone, and what it committed is in the log; a record that the broker does not take is told apart from the
others of its batch; every call is bounded. Whoever gets Failed or Ousted throws the writer away: what became of its
last batch is known when another one has started and has read the log up to its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kworker.kafka.transactional import AFTER_A_REFUSAL, OUSTED, SETTINGS, TOO_LARGE, flush, patiently, throw_away
from kworker.task import Publication

CALL, BUDGET = 5.0, 20.0
"""Seconds that one call, and one batch, may take, whatever the broker does."""

KEY_DECIDES = -1
"""The partition of a record whose key decides."""

Placed = tuple[Publication, int]
"""A record to write, and its partition."""

_MOST_TOPICS = 1_000
_THERE_FOR, _ABSENT_FOR = 30.0, 0.5  # seconds for which an answer about a topic is believed
_SETTINGS = SETTINGS | {"linger.ms": "0"}
_LIMITS = {"message.timeout.ms": "15000", "transaction.timeout.ms": "30000"}
_client_log = logging.getLogger("kworker.client")
_OF_THE_RECORD = TOO_LARGE | {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
}


class Refused(Exception):
    """The broker does not take some records: their numbers in the batch, and why. Nothing of the batch was written."""

    def __init__(self, why: Mapping[int, str]) -> None:
        super().__init__(next(iter(why.values()), ""))
        self.why = why


class Failed(Exception):
    """The batch could not be written now, or nobody knows whether it was."""


class Ousted(Failed):
    """Another writer of this name has started: this one cannot write any more."""


class Transactions:
    """See the module. settings: librdkafka properties. name: the transactional id."""

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        self._refused: dict[int, KafkaError] = {}
        self._offsets: list[int] = []
        self._topics: dict[str, tuple[str, float]] = {}
        self._producer = Producer(
            _SETTINGS
            | {**settings}
            | _LIMITS
            | {"transactional.id": name, "logger": _client_log, "error_cb": _on_error}
        )

    def start(self) -> None:
        """Fence an earlier writer, and end what it left open. Raises Failed: then call it again."""
        try:
            self._producer.init_transactions(CALL)
        except KafkaException as error:
            raise Failed(error.args[0].str()) from error

    def missing(self, topic: str) -> str:
        """Why nothing can be written to this topic; '' when it can. A broker that creates topics is asked to."""
        now = time.monotonic()
        why, until = self._topics.get(topic, ("", 0.0))
        if now < until:
            return why
        try:
            error = self._producer.list_topics(topic, timeout=CALL).topics[topic].error
        except KafkaException as failure:
            raise Failed(failure.args[0].str()) from failure
        why = "" if error is None else f"{topic}: {error.str()}"
        if len(self._topics) > _MOST_TOPICS:
            self._topics.clear()
        self._topics[topic] = why, now + (_ABSENT_FOR if why else _THERE_FOR)
        return why

    def write(self, records: Sequence[Placed]) -> list[int]:
        """Write these; returns the offset of each. Raises Refused, Failed or Ousted."""
        try:
            try:
                return self._transact(records)
            except KafkaException as error:
                if error.args[0].code() not in (AFTER_A_REFUSAL, KafkaError._PURGE_QUEUE):
                    raise
                self._abort()
                return self._transact(records)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() in OUSTED or cause.fatal():
                raise Ousted(cause.str()) from error
            raise Failed(cause.str()) from error

    def close(self) -> None:
        """Throw it away; what is open is undone by the next writer, or by the broker after 30 s."""
        throw_away(self._producer)

    def _transact(self, records: Sequence[Placed]) -> list[int]:
        deadline = time.monotonic() + BUDGET
        self._refused, self._offsets = {}, [-1] * len(records)
        self._producer.begin_transaction()
        for number, (record, partition) in enumerate(records):
            self._produce(number, record, partition)
        flush(self._producer, max(0.1, deadline - time.monotonic()))
        if self._refused:
            self._judge()
            self._abort()
            raise Refused({number: error.str() for number, error in self._refused.items()})
        patiently(lambda: self._producer.commit_transaction(CALL), deadline)
        return self._offsets

    def _judge(self) -> None:
        """Keep those errors that are of a record; raises KafkaException when none is, or the writer is ousted.

        One refused record, or a fence, fails others for reasons that follow from it.
        """
        errors = self._refused.values()
        for error in errors:
            if error.code() in OUSTED:
                raise KafkaException(error)
        first = next(iter(errors))
        self._refused = {number: error for number, error in self._refused.items() if error.code() in _OF_THE_RECORD}
        if not self._refused:
            raise KafkaException(first)

    def _produce(self, number: int, record: Publication, partition: int) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition,
                    on_delivery=partial(self._delivered, number),
                    headers=list(record.headers),
                )
            except BufferError:
                self._producer.poll(1.0)
            except KafkaException as error:
                self._refused[number] = error.args[0]
                return
            else:
                return

    def _delivered(self, number: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused[number] = error
        else:
            self._offsets[number] = message.offset() or 0

    def _abort(self) -> None:
        patiently(lambda: self._producer.abort_transaction(CALL), time.monotonic() + BUDGET)


# No method: with one, writer and producer would hold each other until the collector comes, and the worker has it come
# rarely; each writer that is thrown away would leave its threads behind.
def _on_error(error: KafkaError) -> None:
    _client_log.warning(f"delay log: {error.str()}")
