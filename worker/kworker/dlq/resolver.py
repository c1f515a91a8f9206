"""Writes what is resolved, and what was put back for it, in one transaction: both are there, or neither.

Owns a transactional Producer. Promises: one at a time for each dead-letter topic, since a later one fences an earlier;
when `start` returns, what an earlier one left open is undone, and what it committed can be read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from kworker.config import Config
from kworker.core.metadata import Alphabet, filler
from kworker.dlq.letters import TIMEOUT, Complaints, Letters, one_line
from kworker.dlq.resolved import Resolved
from kworker.dlq.restore import Restored
from kworker.errors import KworkerError
from kworker.kafka.settings import producer_settings
from kworker.kafka.transactional import AFTER_A_REFUSAL, OUSTED, SETTINGS, TOO_LARGE, flush, patiently, throw_away

BUDGET = 60.0
"""Seconds that one transaction may take, whatever the broker does."""

_ABORT = 5.0
_TOO_LONG = {KafkaError.OFFSET_METADATA_TOO_LARGE, KafkaError.INVALID_COMMIT_OFFSET_SIZE}


class RecordRefused(Exception):
    """The broker does not take a record of this batch; nothing of it was written."""


class Resolver:
    """Resolves letters of `letters`. Use it as a context manager; call `start`, open the letters, then `probe`."""

    def __init__(self, config: Config, letters: Letters) -> None:
        self.alphabet: Alphabet | None = None
        """How the broker keeps metadata; None: it does not."""
        self._config = config
        self._letters = letters
        self._complaints = Complaints()
        self._refused: list[KafkaError] = []
        self._open = False
        silent = logging.getLogger("kworker.dlq.client")
        silent.disabled = True  # what librdkafka would log is part of the fault
        settings = (
            SETTINGS
            | producer_settings(config)
            | {
                "transactional.id": letters.group,
                "logger": silent,
                "error_cb": self._complaints,
            }
        )
        self._producer = Producer(settings)

    def __enter__(self) -> Resolver:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:  # readers would wait for its end: a minute, if nobody else ends it
            with suppress(KafkaException):
                self._producer.abort_transaction(_ABORT)
        throw_away(self._producer)

    def start(self) -> None:
        """End what an earlier one left open; from now on an earlier one is fenced. Raises ConfigError."""
        name = self._letters.group
        with one_line(self._config, self._letters.topic, self._complaints, f"the transactional id {name} is allowed"):
            patiently(lambda: self._producer.init_transactions(TIMEOUT), time.monotonic() + TIMEOUT)

    def probe(self) -> None:
        """Write down what is known to be resolved, in metadata of full length, to learn what the broker keeps of it."""
        if not self._letters.resolved:
            return
        for alphabet in (Alphabet.WIDE, Alphabet.ASCII):
            partition, state = next(iter(self._letters.resolved.items()))
            positions = {p: (r.base, r.text(alphabet)) for p, r in self._letters.resolved.items()}
            text = filler(state.base, state.bounds, alphabet)
            try:
                self._write([], positions | {partition: (state.base, text)})
            except KafkaException as error:
                if error.args[0].code() in _TOO_LONG:
                    continue
                raise
            asked = [TopicPartition(self._letters.topic, partition)]
            if self._letters.consumer.committed(asked, timeout=TIMEOUT)[0].metadata == text:
                self.alphabet = alphabet
                return

    def resolve(self, records: Sequence[Restored], states: Mapping[int, Resolved]) -> None:
        """Write the records and, by partition, what is resolved now.

        Raises RecordRefused, and KworkerError for what ends this command.
        """
        self._write(records, {p: (state.base, state.text(self.alphabet)) for p, state in states.items()})

    def _write(self, records: Sequence[Restored], positions: Mapping[int, tuple[int, str]]) -> None:
        topic, group = self._letters.topic, self._letters.group
        needed = f"Write of the topics they go to, and Read of the group {group}, are allowed"
        with one_line(self._config, topic, self._complaints, needed):
            offsets = [TopicPartition(topic, p, *place) for p, place in positions.items()]
            try:
                try:
                    self._transact(records, offsets)
                except KafkaException as error:
                    if error.args[0].code() != AFTER_A_REFUSAL:
                        raise
                    self._abort()
                    self._transact(records, offsets)
            except KafkaException as error:
                if error.args[0].code() in OUSTED:
                    raise KworkerError(
                        f"{topic}: another kworker dlq took over this topic, so this one ended; what it had resolved "
                        "is resolved, and the other goes on behind it"
                    ) from error
                with suppress(KafkaException):  # why it failed is told; the next command undoes what is left open
                    self._abort()
                raise

    def _transact(self, records: Sequence[Restored], offsets: list[TopicPartition]) -> None:
        self._refused.clear()
        self._producer.begin_transaction()
        self._open = True
        for record in records:
            self._produce(record)
        flush(self._producer, BUDGET)
        cause = self._cause()
        if cause is not None and cause.code() in TOO_LARGE:
            self._abort()
            raise RecordRefused(cause.str())
        if cause is not None and cause.code() != KafkaError._PURGE_QUEUE:
            raise KafkaException(cause)
        group = self._letters.consumer.consumer_group_metadata()
        # Order: records were dropped because the transaction failed as a whole; this call says what it failed for.
        patiently(
            lambda: self._producer.send_offsets_to_transaction(offsets, group, TIMEOUT), time.monotonic() + BUDGET
        )
        if cause is not None:
            raise KafkaException(cause)
        patiently(lambda: self._producer.commit_transaction(TIMEOUT), time.monotonic() + BUDGET)
        self._open = False

    def _cause(self) -> KafkaError | None:
        """Why the broker refused records; a fence, or one refused record, fails others for what follows from it."""
        return min(
            self._refused,
            key=lambda error: (error.code() not in OUSTED, error.code() not in TOO_LARGE),
            default=None,
        )

    def _produce(self, record: Restored) -> None:
        publication = record.publication
        while True:
            try:
                self._producer.produce(
                    publication.topic,
                    publication.value,
                    publication.key,
                    record.partition,
                    on_delivery=self._delivered,
                    headers=list(publication.headers),
                )
            except BufferError:
                self._producer.poll(1.0)
            except KafkaException as error:
                self._refused.append(error.args[0])
                return
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)

    def _abort(self) -> None:
        if self._open:
            patiently(lambda: self._producer.abort_transaction(TIMEOUT), time.monotonic() + BUDGET)
            self._open = False
