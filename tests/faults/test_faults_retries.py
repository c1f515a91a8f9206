"""Workers that die while retries wait in the delay log: none is lost, none begins at its first attempt again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kit import Kafka, read_all
from kit.retrying import Retrying
from kit.stage import Stage
from kworker import Client


@pytest.mark.long
def test_a_worker_that_is_killed_before_the_commit_loses_no_retry(kafka: Kafka, tmp_path: Path) -> None:
    """The delay log has it, the group does not know: it runs again, and replaces what waits under the same key."""
    with Stage(tmp_path, kafka.bootstrap) as stage:
        retrying = Retrying(stage, 1)
        static = "-Xgroup.instance.id=one"  # who comes back takes over at once
        first = retrying.worker("--commit-interval", "1m", static)
        stage.publish(retrying.topic, "later", [30])
        id = f"{stage.group}/{retrying.topic}/0/0"
        with Client(kafka.bootstrap, namespace=retrying.namespace) as client:
            stage.wait(lambda: client.find_delayed(id), "it waits in the delay log", first)
            before = client.find_delayed(id)
            first.kill9()
            assert stage.committed(retrying.topic).get(0, (0, ""))[0] == 0, "the commit was faster"
            second = retrying.worker(static)

            def replaced() -> bool:
                after = client.find_delayed(id)
                return before is not None and after is not None and after.due > before.due

            stage.wait(replaced, "it waits under the same key again", second)
            assert [one.id.decode() for one in client.delayed()] == [id]
            stage.wait_all_committed(retrying.topic, second)
            stage.wait(lambda: stage.numbers("ran")[30], "it ran", second, timeout=90)
            stage.wait_all_committed(retrying.retries, second)
            assert client.delayed() == []
        assert (retrying.attempts(30), stage.numbers("ran")[30]) == ([1, 1, 2], 1)


@pytest.mark.long
def test_three_workers_of_which_two_die_during_the_waits(kafka: Kafka, tmp_path: Path) -> None:
    """Each task comes to one end, a success or a dead letter; its attempts are 1, 2, 3."""
    count = 60
    with Stage(tmp_path, kafka.bootstrap) as stage:
        retrying = Retrying(stage, 6)
        workers = [retrying.worker() for _ in range(3)]
        for worker in workers:
            worker.wait_ready()
        stage.publish(retrying.topic, "slowly", range(count))
        for attempt in (1, 2):

            def tried(attempt: int = attempt) -> bool:
                at = Counter(one.attempt for one in stage.noted() if one.event == "began")
                return at[attempt] == count

            stage.wait(tried, f"attempt {attempt} of each", *workers)
            stage.wait_all_committed(retrying.topic, *workers)
            if attempt > 1:
                stage.wait_all_committed(retrying.retries, *workers)
            workers.pop(0).kill9()
            workers.append(retrying.worker())
        letters = f"{retrying.topic}.dlq"
        stage.wait_noted("ran", range(0, count, 2), *workers)
        stage.wait(lambda: len(read_all(kafka.bootstrap, letters)) >= count / 2, "the dead letters", *workers)
        stage.wait_all_committed(retrying.retries, *workers)
        assert {n: retrying.attempts(n) for n in range(count)} == {n: [1, 2, 3] for n in range(count)}
        assert stage.numbers("ran") == dict.fromkeys(range(0, count, 2), 1)
        reasons = Counter(
            dict(letter.headers() or [])["kworker-attempts"] for letter in read_all(kafka.bootstrap, letters)
        )
        assert reasons == {b"3": count / 2}
