"""What a client sends through: one idempotent producer and the thread that serves its delivery reports."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from kworker.config import Config
from kworker.errors import ConfigError
from kworker.kafka.settings import producer_settings, unsafe
from kworker.task import Publication

Report = Callable[[KafkaError | None, Any], None]
"""Called once for each message, in another thread: with an error, or None and the acknowledged record."""

GRACE = 5.0
"""Seconds that a delivery report may be later than the timeout librdkafka was given."""

POLL = 0.1
"""Seconds that one wait for reports takes at most: how long `close` waits for the thread."""

_DEFAULTS = {
    "linger.ms": "0",  # a single publish waits for nobody; while requests are in flight messages gather anyway
    "log_level": "2",  # each failed connection would be a line; a kind of failure is told once, below
    "topic.metadata.propagation.max.ms": "10000",  # an unknown topic is told before the message times out
}
_LOG = logging.getLogger("kworker.client")
_TIMEOUTS = ("message.timeout.ms", "delivery.timeout.ms")


class Sender:
    """One producer, the thread that serves its reports, and the last complaint of its connections."""

    def __init__(self, bootstrap: str, kafka: Mapping[str, str], timeout: float) -> None:
        self.timeout = timeout
        self.budget = timeout + GRACE
        self.complaint = ""
        self._told: set[int] = set()
        self._pid = os.getpid()
        self._stop = threading.Event()
        self.producer = self._producer(bootstrap, kafka)
        self._thread = threading.Thread(target=self._serve, name="kworker-client", daemon=True)
        self._thread.start()

    def _producer(self, bootstrap: str, kafka: Mapping[str, str]) -> Producer:
        faults = [f"{name}: {why}" for name, why in unsafe(kafka).items()]
        faults += [f"{name}: it is refused: give it as timeout, in seconds" for name in _TIMEOUTS if name in kafka]
        if not bootstrap:
            faults.append("bootstrap: it is empty: give host:port of a Kafka broker")
        if faults:
            raise ConfigError(faults)
        settings = producer_settings(Config(bootstrap=bootstrap, kafka={**_DEFAULTS, **kafka})) | {
            "message.timeout.ms": max(1, int(self.timeout * 1000)),  # 0 would mean for ever
            "logger": _LOG,
            "error_cb": self._complain,
        }
        try:
            return Producer(settings)
        except (KafkaException, TypeError, ValueError) as error:
            cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise ConfigError([f"the Kafka client does not take these properties: {cause}"]) from error

    def _complain(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # says less than the error of the connection before it
            return
        self.complaint = error.str()
        if error.code() not in self._told:
            self._told.add(error.code())
            _LOG.warning("Kafka: %s", self.complaint)

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.producer.poll(POLL)

    def check(self) -> None:
        """Raises RuntimeError when nothing can be sent from here."""
        if os.getpid() != self._pid:
            raise RuntimeError("this client was made before a fork: make one in each process")
        if self._stop.is_set():
            raise RuntimeError("this client is closed")

    def send(self, publication: Publication, report: Report, partition: int = -1) -> bool:
        """Queue one message; False when the queue is full. `report` is called in another thread. partition: -1 is the
        one that its key has."""
        self.check()
        try:
            self.producer.produce(
                publication.topic,
                partition=partition,
                value=publication.value,
                key=publication.key,
                headers=[*publication.headers],
                on_delivery=report,
            )
        except BufferError:
            return False
        except KafkaException as error:
            report(error.args[0], None)
        return True

    def close(self, *, discard: bool = False) -> None:
        """Send what is queued, or drop it at once with `discard`; every message gets its report either way."""
        if self._stop.is_set() or os.getpid() != self._pid:
            return
        if discard or self.producer.flush(self.budget):
            self.producer.purge()
            self.producer.flush(GRACE)
        self._stop.set()
        self._thread.join()
