"""What a call takes for its answer, where nobody but the test writes replies and dead letters."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # public, not re-exported

from kit import Kafka, MakeTopic, NewRecord, create_topic, end_offsets, produce, read_all, wait_for
from kworker import AsyncClient, CallError, CallTimeout, Client, ConfigError, PublishError, TaskFailed
from kworker.kafka import replies

DEADLINE = 30.0
Call = Callable[..., "Future[Any]"]


class Desk:
    """A client, the calls it waits in, and the topics that the test answers through."""

    def __init__(self, bootstrap: str, topic: MakeTopic) -> None:
        self.bootstrap = bootstrap
        self.tasks, self.replies = topic(), topic()
        self.client = Client(bootstrap, topic=self.tasks, reply_topic=self.replies)
        self.pool = ThreadPoolExecutor(8)

    def call(self, id: str, **more: Any) -> Future[Any]:
        """A call of the task `t` that waits, and is published."""
        future = self.pool.submit(self.client.call, "t", 1, id=id, **{"timeout": DEADLINE, **more})
        wait_for(lambda: future.done() or id in self.published(), DEADLINE, f"the task {id}")
        return future

    def published(self) -> list[str]:
        return [dict(m.headers() or [])["ce_id"].decode() for m in read_all(self.bootstrap, self.tasks)]  # type: ignore[union-attr]

    def answer(self, id: str, value: bytes = b"1", topic: str = "", partition: int = -1) -> None:
        produce(self.bootstrap, topic or self.replies, [NewRecord(value, None, result(id), partition)])

    def set_aside(self, id: str) -> None:
        produce(self.bootstrap, f"{self.tasks}.dlq", [NewRecord(b"1", None, set_aside(id))])


def result(id: str, kind: bytes = b"t.result") -> tuple[tuple[str, bytes], ...]:
    """The headers of a result."""
    return ("ce_type", kind), ("ce_causationid", id.encode())


def set_aside(id: str) -> tuple[tuple[str, bytes], ...]:
    """The headers of a dead letter."""
    return ("ce_type", b"t"), ("ce_id", id.encode()), ("kworker-reason", b"crashed")


@pytest.fixture
def desk(kafka: Kafka, topic: MakeTopic) -> Iterator[Desk]:
    desk = Desk(kafka.bootstrap, topic)
    with desk.pool, desk.client:
        yield desk
        assert desk.client._replies._waiting == {}


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where connections are accepted and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_message_says_where_the_reply_goes(desk: Desk) -> None:
    call = desk.call("a", headers={"x": "y"}, key="k")
    (message,) = read_all(desk.bootstrap, desk.tasks)
    found = dict(message.headers() or [])
    assert (found["ce_type"], found["ce_replyto"], found["x"]) == (b"t", desk.replies.encode(), b"y")
    assert (message.key(), message.value()) == (b"k", b"1")
    desk.answer("a", b'{"done": true}')
    assert call.result(DEADLINE) == {"done": True}


def test_what_is_not_the_answer_is_ignored(desk: Desk, topic: MakeTopic) -> None:
    create_topic(desk.bootstrap, f"{desk.tasks}.dlq")
    other, mine = topic(), desk.call("mine")
    watched = desk.call("watched", reply_to=other)  # so that this topic is read as well
    letters, answers = f"{desk.tasks}.dlq", partial(NewRecord, b"1", None)
    produce(desk.bootstrap, other, [answers(result("mine"))])  # another call's reply topic
    produce(desk.bootstrap, letters, [answers(result("mine")), answers(set_aside("theirs"))])
    strange = [
        result("theirs"),
        result("mine", kind=b"u.result"),  # another task's
        set_aside("mine"),  # not where dead letters are
        (("ce_causationid", None), ("ce_type", b"\xff")),
        (("ce_causationid", b"mi\xffne"), ("kworker-reason", b"\xff")),
        (("ce_causationid", b"mine"),),
        (("ce_causationid", b"mine"), ("ce_type", b"t")),
    ]
    produce(desk.bootstrap, desk.replies, [NewRecord(), *map(answers, strange)])
    desk.answer("watched", b"2", topic=other)
    assert watched.result(DEADLINE) == 2
    assert not mine.done()
    desk.answer("mine", b"3")
    desk.answer("mine", b"4")
    assert mine.result(DEADLINE) == 3


def test_what_was_there_before_the_call_is_not_read(desk: Desk) -> None:
    create_topic(desk.bootstrap, f"{desk.tasks}.dlq")
    desk.answer("again", b"1")
    desk.set_aside("again")
    call = desk.call("again")
    desk.answer("again", b"2")
    assert call.result(DEADLINE) == 2


def test_partitions_that_are_added_are_read_from_their_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REFRESH", 0.2)
    call = desk.call("a")
    admin = AdminClient({"bootstrap.servers": desk.bootstrap})
    admin.create_partitions([NewPartitions(desk.replies, 3)])[desk.replies].result(DEADLINE)
    wait_for(lambda: len(end_offsets(desk.bootstrap, desk.replies)) == 3, DEADLINE, "the new partitions")
    desk.answer("a", b"5", partition=2)
    assert call.result(DEADLINE) == 5


def test_a_dead_letter_topic_that_is_made_later_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REFRESH", 0.2)
    call = desk.call("a")
    create_topic(desk.bootstrap, f"{desk.tasks}.dlq")
    desk.set_aside("a")
    with pytest.raises(TaskFailed, match=r"crashed"):
        call.result(DEADLINE)


def test_a_missing_reply_topic_is_an_error_that_says_how_to_make_it(desk: Desk, topic: MakeTopic) -> None:
    missing = f"{topic()}-missing"
    with pytest.raises(
        CallError, match=rf"^'t' was not called: .* kafka-topics.sh .*{desk.bootstrap} --create --topic {missing} "
    ) as error:
        desk.client.call("t", id="a", reply_to=missing)
    assert error.value.id == "a"
    assert desk.published() == []
    create_topic(desk.bootstrap, missing)
    call = desk.call("a", reply_to=missing)
    desk.answer("a", topic=missing)
    assert call.result(DEADLINE) == 1


def test_a_name_that_no_topic_can_have_is_an_error_at_once(desk: Desk) -> None:
    with pytest.raises(CallError, match=r"'no topic!' cannot be read: .*[Ii]nvalid topic"):
        desk.client.call("t", reply_to="no topic!", timeout="1m")
    assert desk.published() == []


def test_a_message_that_is_refused_is_no_call(desk: Desk, topic: MakeTopic) -> None:
    small = topic(config={"max.message.bytes": "500"})
    with pytest.raises(PublishError, match=r"[Ss]ize"):
        desk.client.call("t", os.urandom(1000), topic=small, timeout="1m")
    call = desk.call("a")
    desk.answer("a")
    assert call.result(DEADLINE) == 1


def test_one_id_is_waited_for_once(desk: Desk) -> None:
    call = desk.call("a")
    with pytest.raises(ValueError, match=r"another call of this client waits for .* 'a'"):
        desk.client.call("t", id="a")
    desk.answer("a")
    assert call.result(DEADLINE) == 1


def test_a_client_that_is_closed_ends_its_calls(desk: Desk) -> None:
    call = desk.call("a")
    desk.client.close()
    with pytest.raises(CallError, match=r"'t' has no result: the client was closed"):
        call.result(DEADLINE)
    with pytest.raises(RuntimeError, match=r"closed"):
        desk.client.call("t")


def test_calls_end_when_their_reader_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    call = desk.call("a")
    monkeypatch.setattr(replies, "answer", lambda *_: 1 / 0)
    desk.answer("a")
    with pytest.raises(CallError, match=r"has no result: .*cannot read replies any more .*: make a new one"):
        call.result(DEADLINE)
    with pytest.raises(CallError, match=r"was not called: .*make a new one"):
        desk.client.call("t")
    assert desk.client.publish("t").topic == desk.tasks


def test_a_client_that_never_called_has_no_reader(kafka: Kafka, topic: MakeTopic) -> None:
    with Client(kafka.bootstrap, topic=topic()) as client:
        client.publish("t")
        assert client._replies._thread is None


def test_a_broker_that_never_answers_is_an_error_in_time(nowhere: str) -> None:
    with Client(nowhere, reply_topic="replies", timeout="500ms") as client:
        start = time.monotonic()
        with pytest.raises(CallTimeout, match=r"was not called: the reply topic 'replies' could not be read within"):
            client.call("t")
        assert time.monotonic() - start < 10

    async def call() -> None:
        async with AsyncClient(nowhere, reply_topic="replies", timeout="500ms") as client:
            with pytest.raises(CallTimeout, match=r"could not be read within 0.5 s"):
                await client.call("t")

    asyncio.run(call())


def test_a_broker_that_refuses_connections_is_named_in_the_error() -> None:
    with (
        Client("127.0.0.1:1", reply_topic="replies", timeout=1) as client,
        pytest.raises(CallTimeout, match=r"could not be read within 1 s .*refused"),
    ):
        client.call("t")


def test_a_wrong_property_of_the_reader_is_a_fault_of_the_configuration(kafka: Kafka) -> None:
    with (
        Client(kafka.bootstrap, reply_topic="replies", kafka={"fetch.max.bytes": "none"}) as client,
        pytest.raises(ConfigError, match=r"fetch.max.bytes"),
    ):
        client.call("t")
