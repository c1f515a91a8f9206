"""`Client.call` and `AsyncClient.call` with a real worker: results, failures, and calls in great number."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit import Broker, Kafka, end_offsets, read_all, wait_for
from kit.service import Service
from kit.stage import Stage
from kworker import AsyncClient, CallError, CallTimeout, Client, TaskFailed
from kworker.client import Message

CONCURRENT = 200


@pytest.fixture(scope="module")
def service(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Stage(tmp_path_factory.mktemp("call"), kafka.bootstrap) as stage:
        yield Service(stage)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client
        assert client._replies._waiting == {}


def test_a_call_returns_what_its_task_returned(client: Client) -> None:
    assert client.call("answers.double", {"n": 4}) == {"n": 4, "double": 8}
    assert client.call("answers.echo", {"text": "ü"}, key="k", id="mine", headers={"a": "b"}) == ["ü", "k"]
    assert client.call("answers.raw") == b"\x00\xff{"
    assert client.call("answers.nothing") is None


def test_a_task_that_fails_for_good_raises_at_once(service: Service, client: Client) -> None:
    with pytest.raises(TaskFailed) as refused:
        client.call("answers.refuse", {"why": "no such account"}, timeout="1m", id="refused")
    error = refused.value
    assert (error.reason, error.error_type, error.error_message) == ("rejected", "Reject", "no such account")
    assert (error.id, error.topic) == ("refused", f"{service.tasks}.dlq")
    assert str(error) == (
        f"'answers.refuse' failed for good, rejected (Reject): no such account; it is in {service.tasks}.dlq"
    )
    for task, payload, reason in (
        ("answers.fail", None, "exhausted"),
        ("answers.double", {"n": "much"}, "invalid"),
        ("answers.none", None, "unroutable"),
    ):
        with pytest.raises(TaskFailed) as failed:
            client.call(task, payload, timeout="1m")
        assert failed.value.reason == reason


def test_dead_letters_are_read_from_where_the_call_says(service: Service, client: Client) -> None:
    for where in ("", service.stage.topic()):
        with pytest.raises(CallTimeout):
            client.call("answers.refuse", {"why": "no"}, timeout=1, dead_letters=where)


def test_a_result_beyond_the_limits_is_not_built(client: Client) -> None:
    assert client.call("answers.deep", {"levels": 60})
    with pytest.raises(CallError, match=r"result of 'answers.deep' cannot be read: .* 64 deep"):
        client.call("answers.deep", {"levels": 65})


def test_a_call_that_is_given_up_leaves_nothing_behind(service: Service, client: Client, tmp_path: Path) -> None:
    file, before = tmp_path / "let-go", sum(end_offsets(service.stage.bootstrap, service.replies).values())
    with pytest.raises(CallTimeout, match=rf"within 0.5 s: it is at {service.tasks}/\d/\d+, and may still") as late:
        client.call("answers.held", {"file": str(file)}, timeout="500ms", id="given-up")
    assert isinstance(late.value, TimeoutError)
    assert late.value.id == "given-up"
    assert client._replies._waiting == {}
    file.touch()
    wait_for(
        lambda: sum(end_offsets(service.stage.bootstrap, service.replies).values()) > before, 30, "the late result"
    )
    assert client.call("answers.double", {"n": 1}) == {"n": 1, "double": 2}


def test_a_worker_that_does_not_allow_the_topic_is_what_the_timeout_asks_about(
    service: Service, client: Client
) -> None:
    other = service.stage.topic()
    with pytest.raises(CallTimeout, match=rf"does it allow --reply-topic {other}\?"):
        client.call("answers.double", {"n": 1}, reply_to=other, timeout=1)
    assert client.call("answers.double", {"n": 1}) == {"n": 1, "double": 2}


def test_many_threads_share_one_reader(client: Client) -> None:
    with ThreadPoolExecutor(CONCURRENT) as pool:
        results = list(pool.map(lambda n: client.call("answers.double", {"n": n}), range(CONCURRENT)))
    assert results == [{"n": n, "double": 2 * n} for n in range(CONCURRENT)]


def test_many_coroutines_call_at_once_and_some_give_up(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "let-go"

    async def calls() -> None:
        bootstrap = service.stage.bootstrap
        async with AsyncClient(bootstrap, topic=service.tasks, reply_topic=service.replies) as client:
            held = asyncio.ensure_future(client.call("answers.held", {"file": str(file)}))
            late = asyncio.ensure_future(client.call("answers.held", {"file": str(file)}, timeout=1))
            failed = asyncio.ensure_future(client.call("answers.refuse", {"why": "no"}))
            many = [client.call("answers.double", {"n": n}) for n in range(CONCURRENT)]
            assert await asyncio.gather(*many) == [{"n": n, "double": 2 * n} for n in range(CONCURRENT)]
            with pytest.raises(CallTimeout):
                await late
            with pytest.raises(TaskFailed):
                await failed
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            assert client._replies._waiting == {}

    try:
        asyncio.run(calls())
    finally:
        file.touch()


def test_calls_go_on_after_a_restart_of_the_broker(own_broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "let-go"
    with Stage(tmp_path, own_broker.bootstrap) as stage:
        service = Service(stage)
        with service.client() as client, ThreadPoolExecutor(1) as pool:
            held = pool.submit(client.call, "answers.held", {"file": str(file)}, timeout="2m")
            wait_for(lambda: sum(end_offsets(stage.bootstrap, service.tasks).values()), 30, "the task")
            service.worker.wait_ready()
            import time; t0=time.time(); own_broker.stop(); print("stopped", time.time()-t0)
            own_broker.start(); print("started", time.time()-t0)
            file.touch()
            assert held.result(60) == "let go"; print("held", time.time()-t0)
            assert client.call("answers.double", {"n": 3}, timeout="1m") == {"n": 3, "double": 6}
            print("double", time.time()-t0)
            with pytest.raises(TaskFailed):
                client.call("answers.refuse", {"why": "no"}, timeout="1m")
            print("refuse", time.time()-t0)
            print(service.worker.logged()[-3000:])


def test_an_answer_to_a_message_of_an_earlier_client_is_not_taken(service: Service, client: Client) -> None:
    client.publish_many(
        [Message("answers.double", {"n": n}, headers={"ce_replyto": service.replies}) for n in range(9)]
    )
    assert client.call("answers.double", {"n": 7}) == {"n": 7, "double": 14}
    wait_for(lambda: len(read_all(service.stage.bootstrap, service.replies)) >= 10, 30, "all results")
