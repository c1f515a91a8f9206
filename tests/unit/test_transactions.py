"""Transactional writers: one that is thrown away leaves nothing behind, and one that cannot go on says so."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from kit import wait_for
from kworker.kafka.transaction import Failed, Transactions
from kworker.kafka.transactional import flush
from kworker.task import Publication

NOBODY = {"bootstrap.servers": "127.0.0.1:1", "log_level": "0"}


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_writer_that_is_thrown_away_is_gone_without_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kworker.kafka.transaction.CALL", 0.1)
    gc.collect()
    before = threads()
    gc.disable()
    try:
        for _ in range(3):
            writer = Transactions(NOBODY, "thrown-away")
            with pytest.raises(Failed):
                writer.start()
            with pytest.raises(Failed):
                writer.write([(Publication("t", None, b"1", []), 0)])
            writer.close()
            del writer
        wait_for(lambda: threads() <= before, 10.0, "the end of the writers' threads")
    finally:
        gc.enable()


class Failing:
    """A producer whose flush raises as the client's does after a fence."""

    def __init__(self, cause: Exception | None) -> None:
        self._cause = cause

    def flush(self, within: float) -> int:
        raise SystemError("returned NULL without setting an exception") from self._cause


@pytest.mark.parametrize("cause", [KafkaException(KafkaError(KafkaError._FENCED)), None])
def test_a_fatal_error_of_a_flush_is_one_of_kafka_also_when_the_client_lost_it(cause: Exception | None) -> None:
    with pytest.raises(KafkaException) as raised:
        flush(Failing(cause), 1.0)  # type: ignore[arg-type]  # all of a producer that is asked
    error = raised.value.args[0]
    assert error.code() == KafkaError._FENCED if cause else error.fatal()
