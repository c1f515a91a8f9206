"""For plugin authors: run tasks in memory, through the real engine, with a clock that you move.

    from kworker.testing import MemoryWorker

    def test_a_flaky_page_is_tried_again() -> None:
        worker = MemoryWorker(fetch)                 # functions marked with @task, Plugin instances or modules
        worker.publish("fetch", {"url": "http://x"})
        worker.run()                                 # what can run now
        assert worker.attempts[-1].outcome.error.type == "Retry"
        worker.advance("30s")                        # what is due by then
        assert worker.succeeded == 1 and not worker.dead_letters

The engine, the decoding, the check of arguments, retries, back-off (without jitter) and dead letters are those of a
worker; only Kafka, the threads and the clock are replaced. Tasks run one after the other in the calling thread, async
ones by asyncio.run; timeouts are not enforced. A message's `ce_deadline` counts by the clock that you move.

`run_task` is one task once. `context` and `opened` are for tests that call a function or a Plugin's method directly.
With pytest, the fixtures `memory_worker` and `run_task` (kworker.testing_fixtures) are there without an import.
"""

from kworker.testing.plugins import context, opened
from kworker.testing.records import START, DeadLetter, MemoryAttempt, MemoryMessage, MemoryRecord
from kworker.testing.schemas import MemorySchemas
from kworker.testing.worker import MemoryWorker, result_of, run_task

__all__ = [
    "START",
    "DeadLetter",
    "MemoryAttempt",
    "MemoryMessage",
    "MemoryRecord",
    "MemorySchemas",
    "MemoryWorker",
    "context",
    "opened",
    "result_of",
    "run_task",
]
