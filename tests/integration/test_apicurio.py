"""The schema registry's client against a real registry, fed by Confluent's own serializer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from kit.apicurio import Apicurio, Missing
from kit.avro_zoo import array, field, record
from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.codecs.schema_registry import SchemaRegistry
from kworker.config import SchemaRegistrySettings
from kworker.errors import DecodeError, Unavailable
from kworker.task import Task

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ORDER = record("shop.Order", field("n", "int"), field("tags", array("string")))


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    try:
        running = Apicurio(tmp_path_factory.mktemp("apicurio"))
    except Missing as missing:
        raise pytest.fail.Exception(str(missing), pytrace=False) from None
    with running:
        yield running


def order(n: int, tags: list[str]) -> None: ...


def schemas(apicurio: Apicurio) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(url=apicurio.url))


def bind(registry: SchemaRegistry, value: bytes, topic: str) -> Any:
    signature = Signature(TaskSpec("t", order, "thread"), schemas=registry)
    while True:
        try:
            return signature.bind(Task("t", topic, 0, 0, None, value, [], 0))
        except Unavailable as later:
            if "has not yet answered" not in str(later):  # its first answers take their time
                raise


def test_what_the_serializer_registers_and_writes_is_read(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    serialize = AvroSerializer(client, json.dumps(ORDER))
    value = serialize({"n": 7, "tags": ["a"]}, SerializationContext("orders", MessageField.VALUE))
    assert isinstance(value, bytes)
    registry = schemas(apicurio)
    assert bind(registry, value, "orders") == ((7, ["a"]), {})
    with pytest.raises(DecodeError, match="not of the topic's subject; it is of: orders-value"):
        bind(registry, value, "payments")
    with pytest.raises(DecodeError, match="has no schema 9999"):
        bind(registry, b"\0" + (9999).to_bytes(4, "big") + b"\0", "orders")
    registry.check()


def test_two_versions_are_read(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    id = client.register_schema("gone-value", Schema(json.dumps({**ORDER, "name": "shop.Gone"}), "AVRO"))
    client.register_schema("gone-value", Schema(json.dumps({**ORDER, "name": "shop.Gone", "doc": "2"}), "AVRO"))
    value = b"\0" + id.to_bytes(4, "big") + b"\x02\0"
    assert bind(schemas(apicurio), value, "gone") == ((1, []), {})


def test_references_are_followed(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    client.register_schema("tag", Schema(json.dumps(record("shop.Tag", field("text", "string"))), "AVRO"))
    referring = record("shop.Tagged", field("n", "int"), field("tags", array("shop.Tag")))
    reference = SchemaReference("shop.Tag", "tag", 1)
    id = client.register_schema("tagged-value", Schema(json.dumps(referring), "AVRO", [reference]))

    def tagged(n: int, tags: list[dict[str, str]]) -> None: ...

    signature = Signature(TaskSpec("t", tagged, "thread"), schemas=schemas(apicurio))
    value = b"\0" + id.to_bytes(4, "big") + b"\x02\x02\x02a\0"
    assert signature.bind(Task("t", "tagged", 0, 0, None, value, [], 0)) == ((1, [{"text": "a"}]), {})
