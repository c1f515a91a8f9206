"""What the client does not do by itself for whoever writes in transactions, and how its errors are to be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

SETTINGS = {"retry.backoff.ms": "2"}
"""At the default of 100 a transaction takes 80 ms, at this 10."""

OUSTED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
"""Another writer of this name has started."""

TOO_LARGE = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
}
"""The broker does not take this record, whatever else it takes."""

AFTER_A_REFUSAL = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
"""The transaction after one with a refused record fails so, for the numbers that the refused ones had; the one after
that does not (confluent-kafka 2.16.1, Kafka 4.3.1)."""


def flush(producer: Producer, within: float) -> None:
    """Wait for the reports of all records. Raises KafkaException: some are not there in time, or it cannot go on."""
    try:
        unsent = producer.flush(within)
    except SystemError as error:
        # A fatal error, such as a fence, is pending while the reports of the records it failed are delivered.
        # Now and then it is lost on the way (confluent-kafka 2.16.1): then nothing says which it was.
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        lost = KafkaError(KafkaError._FATAL, "the client cannot go on, and did not say why", fatal=True)
        raise KafkaException(lost) from error
    if unsent:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def patiently(call: Callable[[], Any], deadline: float) -> None:
    """Call again what the client says may be called again, until `deadline` (monotonic seconds)."""
    while True:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
        else:
            return


def throw_away(producer: Producer) -> None:
    """Drop what is not written. What is open is undone by the next writer, or by the broker when it waited too long."""
    with suppress(KafkaException):
        producer.purge()
    with suppress(KafkaException, SystemError):  # a fatal error is told once more, and whoever got it has told it
        producer.poll(0)  # what is to be told of its records would hold whoever is told, and so the producer
