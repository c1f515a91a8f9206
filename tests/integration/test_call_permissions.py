"""What a client that calls is allowed: it needs no group, and it is told which topic it may not read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from kit import Broker, NewRecord, create_topic, end_offsets, produce, wait_for
from kit.secured import AclOperation, ResourceType, allow, sasl_plain
from kworker import CallError, CallTimeout, Client
from kworker.kafka.replies import Replies

USER, PASSWORD = "caller", "s3cret"
DEADLINE = 30.0


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[Broker, str]]:
    """A broker with a second listener, whose user may describe every topic, and do what a test allows besides."""
    with sasl_plain(USER, PASSWORD) as (broker, address):
        for name in ("tasks", "tasks.dlq", "seen", "silent", "hidden", "open"):
            create_topic(broker.bootstrap, name)
        allow(broker, USER, ResourceType.TOPIC, "tasks", AclOperation.WRITE)
        allow(broker, USER, ResourceType.TOPIC, "tasks.dlq", AclOperation.DESCRIBE)
        allow(broker, USER, ResourceType.TOPIC, "seen", AclOperation.DESCRIBE)
        allow(broker, USER, ResourceType.TOPIC, "silent", AclOperation.DESCRIBE)
        allow(broker, USER, ResourceType.TOPIC, "open", AclOperation.READ)
        yield broker, address


@pytest.fixture
def client(secured: tuple[Broker, str]) -> Iterator[Client]:
    properties = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    }
    with Client(secured[1], reply_topic="open", kafka=properties) as client:
        yield client


def called(secured: tuple[Broker, str], client: Client, id: str, reply_to: str, dead_letters: str | None) -> object:
    """What a call returns, or the CallError that it raises; its task is answered once it is published."""
    broker, _ = secured
    before = end_offsets(broker.bootstrap, "tasks")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.call, "t", id=id, timeout=DEADLINE, reply_to=reply_to, dead_letters=dead_letters)
        wait_for(lambda: end_offsets(broker.bootstrap, "tasks") != before, DEADLINE, "the task")
        headers = (("ce_type", b"t.result"), ("ce_causationid", id.encode()))
        produce(broker.bootstrap, reply_to, [NewRecord(b"1", None, headers)])
        try:
            return call.result(DEADLINE)
        except CallError as error:
            return error


def test_a_call_needs_no_group_and_no_dead_letters(secured: tuple[Broker, str], client: Client) -> None:
    assert called(secured, client, "a", "open", None) == 1
    assert called(secured, client, "b", "open", "hidden") == 1


def test_a_reply_topic_that_may_not_be_seen_is_an_error_at_once(client: Client) -> None:
    with pytest.raises(CallError, match=r"'hidden' cannot be read: .*authorization") as error:
        client.call("t", reply_to="hidden", timeout="1m")
    assert not isinstance(error.value, CallTimeout)


def test_a_reply_topic_that_may_only_be_seen_ends_each_call(secured: tuple[Broker, str], client: Client) -> None:
    broker, _ = secured
    for _ in range(2):
        with pytest.raises(CallError, match=r"'seen' cannot be read: .*authorization") as error:
            client.call("t", reply_to="seen", timeout="1m")
        assert not isinstance(error.value, CallTimeout)
    allow(broker, USER, ResourceType.TOPIC, "seen", AclOperation.READ)
    wait_for(
        lambda: called(secured, client, "now", "seen", "") == 1, DEADLINE, "a reply from the topic that may be read now"
    )


def test_a_refusal_before_the_task_is_published_ends_the_call(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Replies.follow

    def slowly(self: Replies, reply_topic: str, dead_letters: str, deadline: float) -> Future[None]:
        done = follow(self, reply_topic, dead_letters, deadline)
        done.result(DEADLINE)
        wait_for(lambda: not self._followed, DEADLINE, "the refusal")
        return done

    monkeypatch.setattr(Replies, "follow", slowly)
    with pytest.raises(CallError, match=r"'silent' cannot be read: .*authorization"):
        client.call("t", reply_to="silent", timeout="20s")
