"""A broker inside this process, for `kworker dev`, a demo and tests: librdkafka's mock cluster on a loopback port.

Any Kafka client can use it, and nothing is kept: topics appear on first use with `PARTITIONS` partitions each, a
partition holds `MOST_BYTES` or `MOST_RECORDS` and drops older records silently, admin calls time out, transactions
only pretend. Never for data that matters.
"""

from __future__ import annotations

from types import TracebackType

from confluent_kafka import Producer

from kworker.errors import FatalKafkaError

PARTITIONS = 4
"""Partitions of every topic."""

MOST_BYTES = 5 * 1024 * 1024
MOST_RECORDS = 100_000
"""What a partition holds before it drops its oldest records."""

_TIMEOUT = 10.0


class EmbeddedBroker:
    """Runs from its creation until `close()`; `bootstrap` is its address, `host:port`.

    Raises FatalKafkaError when it does not start.
    """

    def __init__(self) -> None:
        # log_level 3: it would announce on standard error that it is a mock, and that clients come and go.
        self._host: Producer | None = Producer(
            {"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "log_level": 3}
        )
        brokers = self._host.list_topics(timeout=_TIMEOUT).brokers.values()
        if not brokers:
            raise FatalKafkaError("the embedded broker did not start: librdkafka's mock cluster names no address")
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def create(self, topic: str) -> None:
        """Make a topic, if it is not there: a worker that waits for it sees it at once."""
        if self._host is not None:
            self._host.list_topics(topic, timeout=_TIMEOUT)

    def close(self) -> None:
        """Stop it; all it held is gone."""
        self._host = None  # the last reference: librdkafka ends the cluster with the client that carries it
