"""Schemas by id: what the registry says, what it does not say, and how long anybody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from kit import wait_for
from kit.avro_zoo import LINKED, array, field, record
from kit.registry import Registry
from kworker import TaskSpec
from kworker.codecs import schema_registry
from kworker.codecs.arguments import Signature
from kworker.codecs.schema_registry import SchemaRegistry
from kworker.config import SchemaRegistrySettings
from kworker.errors import ConfigError, DecodeError, Unavailable
from kworker.task import Reason, Task

SCHEMA = record("shop.Order", field("n", "long"))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def client(registry: Registry, **settings: Any) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(**{"url": registry.url, **settings}))


def answered(ask: Callable[[], Any]) -> Any:
    """What `ask` gets once the registry has answered: it may be put off before."""

    def once() -> Any:
        try:
            return ask()
        except Unavailable:
            return None

    return wait_for(once, 20, "an answer of the registry")


def refusal(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(DecodeError) as caught:
        answered(ask)
    assert caught.value.reason is Reason.UNDECODABLE
    return caught.value.code, str(caught.value)


def test_a_schema_is_asked_for_once(registry: Registry) -> None:
    id = registry.register("orders-value", SCHEMA)
    schemas = client(registry)
    first = schemas.schema(id, "orders")
    assert schemas.schema(id, "orders") is first
    assert first.name == "shop.Order"
    assert registry.asked == [f"/schemas/ids/{id}/versions", f"/schemas/ids/{id}"]


def test_an_id_that_the_registry_does_not_have_is_refused(registry: Registry) -> None:
    schemas = client(registry)
    assert refusal(lambda: schemas.schema(7, "orders"))[0] == "schema_unknown"
    # Registered just now, its first record is read: no refusal is remembered.
    for number in range(7):
        registry.register("orders-value", record(f"R{number}", field("n", "long")))
    assert schemas.schema(7, "orders").name == "R6"


def test_an_id_of_another_subject_is_refused_until_it_has_this_one(registry: Registry) -> None:
    id = registry.register("payments-value", SCHEMA)
    schemas = client(registry)
    code, text = refusal(lambda: schemas.schema(id, "orders"))
    assert code == "schema_subject"
    assert "payments-value" in text
    assert registry.register("orders-value", SCHEMA) == id
    assert schemas.schema(id, "orders").name == "shop.Order"


@pytest.mark.parametrize(
    ("strategy", "subject"),
    [("topic", "orders-value"), ("record", "shop.Order"), ("topic-record", "orders-shop.Order")],
)
def test_the_three_ways_to_name_a_subject(registry: Registry, strategy: str, subject: str) -> None:
    schemas = client(registry, subject=strategy)
    id = registry.register("other", SCHEMA)
    assert refusal(lambda: schemas.schema(id, "orders"))[0] == "schema_subject"
    registry.register(subject, SCHEMA)
    assert schemas.schema(id, "orders").name == "shop.Order"


def test_what_a_schema_refers_to_is_fetched_as_well(registry: Registry) -> None:
    registry.register("unit", record("shop.Unit", field("name", "string")))
    registry.register(
        "item",
        record("shop.Item", field("unit", "shop.Unit")),
        references=[{"name": "shop.Unit", "subject": "unit", "version": 1}],
    )
    id = registry.register(
        "orders-value",
        record("shop.Order", field("items", array("shop.Item")), field("first", "shop.Item")),
        references=[{"name": "shop.Item", "subject": "item", "version": 1}],
    )
    schema = client(registry).schema(id, "orders")
    assert schema.read(b"\x02\x02a\0\x02b") == {"items": [{"unit": {"name": "a"}}], "first": {"unit": {"name": "b"}}}


@pytest.mark.parametrize(
    ("schema", "more", "text"),
    [
        ("not json", {}, "cannot be used"),
        ({"type": "record"}, {}, "cannot be used"),
        ("[" * 100_000, {}, "beyond the limits"),
        ("{}", {"schemaType": "PROTOBUF"}, "type is PROTOBUF"),
        (SCHEMA, {"references": [{"name": "a", "subject": "missing", "version": 1}]}, "has no schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(registry: Registry, schema: Any, more: Any, text: str) -> None:
    id = registry.register("orders-value", schema, **more)
    assert text in refusal(lambda: client(registry).schema(id, "orders"))[1]


def test_a_schema_that_refers_to_itself_ends(registry: Registry) -> None:
    references = [{"name": "shop.Order", "subject": "orders-value", "version": 1}]
    id = registry.register("orders-value", SCHEMA, references=references)
    assert client(registry).schema(id, "orders").name == "shop.Order"
    assert len(registry.asked) == 3


def test_only_the_registrys_own_word_is_a_refusal(registry: Registry) -> None:
    id = registry.register("orders-value", SCHEMA)
    for status, body in [
        (404, b"<html>no such page</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (401, b'{"error_code": 401}'),
        (403, b"{}"),
        (500, b'{"error_code": 50001}'),
        (503, b""),
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"schema": 5}'),
        (200, b"[" * 100_000),
    ]:
        registry.answers = {f"/schemas/ids/{id}": (status, body)}
        with pytest.raises(Unavailable) as caught:
            client(registry).schema(id, "orders")
        assert caught.value.after >= 1


def test_while_it_is_down_nobody_waits_and_what_is_known_is_read(registry: Registry) -> None:
    known = registry.register("orders-value", SCHEMA)
    other = registry.register("orders-value", record("Other", field("n", "long")))
    schemas = client(registry)
    schemas.schema(known, "orders")
    registry.stop()
    with pytest.raises(Unavailable):
        schemas.schema(other, "orders")
    asked = len(registry.asked)
    for _ in range(100):
        with pytest.raises(Unavailable) as caught:
            schemas.schema(other, "orders")
        assert 0 < caught.value.after <= 30
    assert schemas.schema(known, "orders").name == "shop.Order"
    assert len(registry.asked) == asked
    registry.start()
    assert answered(lambda: schemas.schema(other, "orders")).name == "Other"


def test_who_does_not_wait_finds_the_answer_later(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "WAIT", 0.05)
    id = registry.register("orders-value", SCHEMA)
    schemas = client(registry)
    registry.open.clear()
    for asked in (id, 99):
        with pytest.raises(Unavailable, match="not yet answered"):
            schemas.schema(asked, "orders")
    registry.open.set()
    assert answered(lambda: schemas.schema(id, "orders")).name == "shop.Order"
    wait_for(lambda: not schemas._lookups, 10, "the lookups to end")
    before = len(registry.asked)
    assert refusal(lambda: schemas.schema(99, "orders"))[0] == "schema_unknown"
    assert len(registry.asked) == before


def test_many_ask_at_once_and_one_asks_the_registry(registry: Registry) -> None:
    id = registry.register("orders-value", SCHEMA)
    schemas = client(registry)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(schemas.schema(id, "orders").name)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == ["shop.Order"] * 30
    assert len(registry.asked) == 2


def test_a_coroutine_is_never_held_up(registry: Registry) -> None:
    id = registry.register("orders-value", SCHEMA)
    schemas = client(registry)
    registry.open.clear()

    async def ask() -> float:
        with pytest.raises(Unavailable) as caught:
            schemas.schema(id, "orders")
        return caught.value.after

    assert asyncio.run(ask()) < 1
    registry.open.set()
    assert answered(lambda: schemas.schema(id, "orders")).name == "shop.Order"


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n"])
def test_a_peer_that_is_silent_or_drips_is_given_up(drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "TIMEOUT", 0.5)
    monkeypatch.setattr(schema_registry, "WAIT", 60.0)
    over = threading.Event()

    def serve() -> None:
        peer, _ = server.accept()
        with peer, contextlib.suppress(OSError):
            peer.sendall(drip)
            while not over.wait(0.05):
                if drip:
                    peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Unavailable, match="does not answer"):
            SchemaRegistry(SchemaRegistrySettings(url=address)).schema(1, "orders")
        over.set()
        thread.join(10)


def test_the_next_address_is_asked_when_one_is_down(registry: Registry) -> None:
    id = registry.register("orders-value", SCHEMA)
    with Registry() as gone:
        dead = gone.url
    assert client(registry, url=f"{dead},{registry.url}").schema(id, "orders").name == "shop.Order"


@pytest.mark.parametrize("way", ["settings", "address"])
def test_it_logs_in_and_tells_no_password(way: str, caplog: pytest.LogCaptureFixture) -> None:
    with Registry(login="me:s3cret/@") as registry:
        id = registry.register("orders-value", SCHEMA)
        with pytest.raises(Unavailable, match="answered 401") as caught:
            client(registry, basic_auth_user_info="me:wr0ng").schema(id, "orders")
        place = f"localhost:{registry.port}"
        right = (
            client(registry, basic_auth_user_info="me:s3cret/@")
            if way == "settings"
            else client(registry, url=f"http://me:s3cret%2F%40@{place}")
        )
        assert right.schema(id, "orders").name == "shop.Order"
    registry.stop()
    with pytest.raises(Unavailable) as down:
        right.schema(id + 1, "orders")
    assert "s3cret" not in f"{down.value}{right._settings!r}{caplog.text}"
    assert "wr0ng" not in f"{caught.value}{caplog.text}"


def test_certificates_are_checked_against_the_ca(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Registry(tls=context) as registry:
        id = registry.register("orders-value", SCHEMA)
        with pytest.raises(Unavailable, match="certificate verify failed"):
            client(registry).schema(id, "orders")
        assert client(registry, ca=str(tmp_path / "ca.pem")).schema(id, "orders").name == "shop.Order"
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="ca, certificate or key cannot be used"):
        client(registry, ca=str(tmp_path / "bad.pem"))


def test_a_payload_with_its_id_is_read_and_resolved(registry: Registry) -> None:
    def order(n: int, note: str) -> None: ...

    reader = record("shop.Order", field("n", "double"), field("note", "string", default="none"))
    id = registry.register("orders-value", SCHEMA)
    looped = registry.register("orders-value", LINKED)
    schemas = client(registry)

    def bind(value: bytes, content_type: str = "", topic: str = "orders") -> Any:
        signature = Signature(TaskSpec("t", order, "thread", schema=schema), schemas=schemas)
        return signature.bind(Task("t", topic, 0, 0, None, value, [], 0, content_type=content_type))

    framed = b"\0" + id.to_bytes(4, "big") + b"\x06"
    schema: Any = record("shop.Order", field("n", "long"), field("note", "string", default="none"))
    assert bind(framed) == ((3, "none"), {})
    assert bind(framed, "application/avro") == ((3, "none"), {})
    for value, code in [(framed[:4], "truncated"), (framed + b"x", "trailing"), (framed[:-1], "truncated")]:
        assert refusal(lambda value=value: bind(value))[0] == code  # type: ignore[misc]  # mypy wants no default
    assert refusal(lambda: bind(framed, topic="other"))[0] == "schema_subject"
    assert refusal(lambda: bind(b"\0" + looped.to_bytes(4, "big") + b"\0\0"))[0] == "schema_recursive"
    assert bind(b'{"n": 1, "note": "x"}') == ((1, "x"), {})
    schema = reader
    with pytest.raises(DecodeError, match="Expected `int`"):
        bind(framed)


def test_check_says_whether_it_answers(registry: Registry) -> None:
    client(registry).check()
    registry.answers["/schemas/types"] = (502, json.dumps("bad gateway").encode())
    with pytest.raises(Unavailable, match="answered 502"):
        client(registry).check()
