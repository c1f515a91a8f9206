"""`Client` and `AsyncClient` against a real Kafka: what they say was published is there, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kit import Kafka, MakeTopic, read_all
from kworker import AsyncClient, Client, PublishError
from kworker.client import Message, Published


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where connections are accepted and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def places(published: list[Published]) -> list[tuple[int, int]]:
    return [(p.partition, p.offset) for p in published]


def test_a_published_message_is_where_the_client_says(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(3)
    with Client(kafka.bootstrap, topic=name) as client:
        first = client.publish("thumbnail", {"path": "a.jpg"}, key="a", headers={"traceparent": "00-1"})
        second = client.publish("thumbnail", b"\x00\xff", key=b"a", id="mine")
        third = client.publish("thumbnail")
    assert first.topic == name
    assert second.id == "mine"
    assert str(second) == f"{name}/{second.partition}/{second.offset}"
    assert first.partition == second.partition
    found = {(m.partition(), m.offset()): m for m in read_all(kafka.bootstrap, name)}
    assert set(found) == set(places([first, second, third]))
    one, two, three = (found[place] for place in places([first, second, third]))
    assert (one.key(), one.value(), two.value(), three.key(), three.value()) == (
        b"a", b'{"path":"a.jpg"}', b"\x00\xff", None, None,
    )  # fmt: skip
    assert ("ce_id", first.id.encode()) in (one.headers() or [])
    assert ("traceparent", b"00-1") in (one.headers() or [])
    assert first.id != third.id


def test_a_message_may_name_another_topic(kafka: Kafka, topic: MakeTopic) -> None:
    usual, other = topic(), topic()
    with Client(kafka.bootstrap, topic=usual) as client:
        assert client.publish("t", topic=other).topic == other
    assert read_all(kafka.bootstrap, usual) == []
    assert len(read_all(kafka.bootstrap, other)) == 1


def test_many_are_published_in_order_with_one_result_each(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    with Client(kafka.bootstrap, topic=name, kafka={"queue.buffering.max.messages": "500"}) as client:
        published = client.publish_many(Message("t", n, id=f"i{n}") for n in range(5_000))
    assert [p.id for p in published] == [f"i{n}" for n in range(5_000)]
    assert [p.offset for p in published] == list(range(5_000))
    assert [m.value() for m in read_all(kafka.bootstrap, name)] == [b"%d" % n for n in range(5_000)]


def test_none_of_many_is_sent_when_one_cannot_be(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    with Client(kafka.bootstrap, topic=name) as client, pytest.raises(TypeError, match="JSON"):
        client.publish_many([Message("t", 1), Message("t", object())])
    assert read_all(kafka.bootstrap, name) == []


def test_those_of_many_that_the_broker_refuses_are_told_apart(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(config={"max.message.bytes": "1000"})
    messages = [Message("t", b"small"), Message("t", os.urandom(2_000), id="big"), Message("t", b"small")]
    with Client(kafka.bootstrap, topic=name, kafka={"batch.num.messages": "1"}) as client:
        with pytest.raises(PublishError, match=r"1 of 3 .* number 2: 't' was not published: .*[Ss]ize") as failed:
            client.publish_many(messages)
        results = failed.value.results
        assert [type(result) for result in results] == [Published, PublishError, Published]
        assert isinstance(results[1], PublishError)
        assert results[1].id == "big"
    assert [m.value() for m in read_all(kafka.bootstrap, name)] == [b"small", b"small"]


def test_an_unknown_topic_is_an_error_with_the_brokers_reason(kafka: Kafka) -> None:
    quick = {"topic.metadata.propagation.max.ms": "200", "topic.metadata.refresh.fast.interval.ms": "50"}
    with (
        Client(kafka.bootstrap, kafka=quick) as client,
        pytest.raises(PublishError, match=r"[Uu]nknown topic") as failed,
    ):
        client.publish("t", topic="there-is-no-such-topic-here", id="i1")
    assert failed.value.id == "i1"


def test_an_illegal_topic_name_is_an_error(kafka: Kafka) -> None:
    with Client(kafka.bootstrap) as client, pytest.raises(PublishError, match=r"[Ii]nvalid topic"):
        client.publish("t", topic="not a topic!")


def test_a_broker_that_refuses_connections_is_an_error_in_time() -> None:
    with Client("127.0.0.1:1", timeout=1) as client, pytest.raises(PublishError, match=r"within 1 s .*refused"):
        client.publish("t")


def test_a_broker_that_never_answers_is_an_error_in_time(nowhere: str) -> None:
    with Client(nowhere, timeout="500ms") as client, pytest.raises(PublishError, match=r"within 0.5 s"):
        client.publish("t")


def test_an_exception_inside_the_with_block_is_not_held_up_by_what_is_queued(nowhere: str) -> None:
    started = threading.Event()

    def wait(client: Client) -> None:
        started.set()
        client.publish("t")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError), Client(nowhere, timeout=60) as client:  # noqa: PT012 - the block is what is tested
            waiting = pool.submit(wait, client)
            assert started.wait(10)
            while not len(client._sender.producer):
                time.sleep(0.001)
            raise ZeroDivisionError
        with pytest.raises(PublishError, match=r"[Pp]urge"):
            waiting.result(10)


def test_threads_share_a_client(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(2)
    with Client(kafka.bootstrap, topic=name) as client, ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda n: client.publish("t", n), range(400)))
    found = {(m.partition(), m.offset()): m.value() for m in read_all(kafka.bootstrap, name)}
    assert [found[place] for place in places(published)] == [b"%d" % n for n in range(400)]


def test_async_publishes_are_acknowledged_together_without_threads(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    most_threads = 0

    async def publish() -> list[Published]:
        nonlocal most_threads
        async with AsyncClient(kafka.bootstrap, topic=name, kafka={"queue.buffering.max.messages": "200"}) as client:
            waiting = [asyncio.ensure_future(client.publish("t", n)) for n in range(2_000)]
            done: list[Published] = []
            for next_one in asyncio.as_completed(waiting):
                done.append(await next_one)
                most_threads = max(most_threads, threading.active_count())
            return [future.result() for future in waiting]

    before = threading.active_count()
    published = asyncio.run(publish())
    assert most_threads == before + 1
    found = {(m.partition(), m.offset()): m.value() for m in read_all(kafka.bootstrap, name)}
    assert [found[place] for place in places(published)] == [b"%d" % n for n in range(2_000)]


def test_async_many_in_order_with_errors_told_apart(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(config={"max.message.bytes": "1000"})

    async def publish() -> PublishError:
        async with AsyncClient(kafka.bootstrap, topic=name, kafka={"batch.num.messages": "1"}) as client:
            assert [p.offset for p in await client.publish_many([Message("t", n) for n in range(3)])] == [0, 1, 2]
            with pytest.raises(PublishError) as failed:
                await client.publish_many([Message("t", os.urandom(2_000)), Message("t", 3)])
            return failed.value

    assert [type(result) for result in asyncio.run(publish()).results] == [PublishError, Published]
    assert len(read_all(kafka.bootstrap, name)) == 4


def test_the_event_loop_goes_on_while_a_broker_does_not_answer(nowhere: str) -> None:
    async def publish() -> int:
        turns = 0
        async with AsyncClient(nowhere, timeout=1) as client:
            waiting = asyncio.ensure_future(client.publish("t"))
            while not waiting.done():
                await asyncio.sleep(0.01)
                turns += 1
            with pytest.raises(PublishError, match="no acknowledgement"):
                waiting.result()
        return turns

    assert asyncio.run(publish()) > 10


def test_a_cancelled_async_publish_leaves_the_client_usable(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()

    async def publish() -> Published:
        async with AsyncClient(kafka.bootstrap, topic=name) as client:
            cancelled = asyncio.ensure_future(client.publish("t", 1))
            await asyncio.sleep(0)  # it is sent, its acknowledgement is not here yet
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            return await client.publish("t", 2)

    assert asyncio.run(publish()).offset == 1


def test_an_async_client_serves_one_event_loop(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()

    async def make() -> AsyncClient:
        client = AsyncClient(kafka.bootstrap, topic=name)
        await client.publish("t")
        return client

    client = asyncio.run(make())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(client.publish("t"))
    asyncio.run(client.close())
