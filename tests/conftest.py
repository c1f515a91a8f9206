"""The fixtures of the whole suite: a Kafka to test against, started when the first test needs it.

KWORKER_TEST_BOOTSTRAP names a running Kafka instead; tests that hurt their broker start one of their own all the same.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kit import Broker, BrokerError, Kafka, MakeTopic, create_topic
from kit.distribution import jars, java

NEEDS_KAFKA = {"kafka", "own_broker", "topic"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker, so that `-m "not kafka"` runs all the rest."""
    for item in items:
        if NEEDS_KAFKA.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka's jars here, where no test's timeout counts."""
    needed = any(item.get_closest_marker("kafka") for item in session.items)
    if needed and not session.config.option.collectonly and "KWORKER_TEST_BOOTSTRAP" not in os.environ:
        with suppress(BrokerError):  # raised again by the fixture, as the failure of the tests that need it
            java()
            jars()


def _broker() -> Iterator[Broker]:
    try:
        broker = Broker().__enter__()
    except BrokerError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The shared Kafka."""
    given = os.environ.get("KWORKER_TEST_BOOTSTRAP")
    if not given:
        for broker in _broker():
            yield Kafka(broker.bootstrap)
        return
    try:
        AdminClient({"bootstrap.servers": given, "log_level": 0}).list_topics(timeout=10)
    except KafkaException as error:
        fault = f"KWORKER_TEST_BOOTSTRAP={given} does not answer: {error}"
        raise pytest.fail.Exception(fault, pytrace=False) from None
    yield Kafka(given)


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker for this test alone, to stop, kill or freeze."""
    yield from _broker()


@pytest.fixture
def topic(kafka: Kafka, request: pytest.FixtureRequest) -> MakeTopic:
    """A factory of topics named after the test."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:60].strip("-")

    def make(partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        name = f"{slug}-{uuid.uuid4().hex[:8]}"
        create_topic(kafka.bootstrap, name, partitions, config)
        return name

    return make
