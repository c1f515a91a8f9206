"""A transactional writer that is thrown away leaves nothing behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from kit import wait_for
from kworker.kafka.transaction import Failed, Transactions
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
