"""`kworker plugins --asyncapi`: valid by the official schema of AsyncAPI 3.0, complete, and true to the worker."""

from __future__ import annotations

import enum
from datetime import date
from typing import Any

import msgspec
import pytest
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from kit.asyncapi import Missing, asyncapi_schema
from kworker import task
from kworker.cli.asyncapi import document
from kworker.codecs.arguments import Signature
from kworker.config import Config, SchemaRegistrySettings, TopicSettings
from kworker.plugin import MARK
from kworker.registry import PluginInfo, Registry
from kworker.testing import MemoryWorker

RECORD = {"type": "record", "name": "Book", "fields": [{"name": "cents", "type": "long"}]}


class Size(enum.Enum):
    SMALL = "small"


class Circle(msgspec.Struct, tag="circle"):
    radius: int


class Square(msgspec.Struct, tag="square"):
    side: int
    size: Size = Size.SMALL


@task("ledger.book", schema=RECORD, reply_to="booked")
def book(cents: int) -> dict[str, int]:
    """Books an amount.

    More of it.
    """
    return {"cents": cents}


@task("draw shapes!")
def draw(shapes: list[Circle | Square], at: tuple[int, str] = (1, "a"), size: Size = Size.SMALL, **more: int) -> None:
    pass


@task("draw_shapes_")
def draw_again(on: date | None = None, square: Square | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201 - nothing is known of its result
    pass


CONFIG = Config(
    group="accounting",
    bootstrap="kafka-1:9092,kafka-2:9092",
    topics=("tasks", "orders", r"^eu\..*"),
    reply_topics=("answers", "^me-.*"),
    topic_settings={"orders": TopicSettings(task="ledger.book", dead_letter="orders.failed")},
    kafka={"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.password": "hunter2"},
    schema_registry=SchemaRegistrySettings(url="https://me:hunter2@schemas:8081/a,https://b"),
)


def plugins() -> list[PluginInfo]:
    specs = [getattr(function, MARK) for function in (book, draw, draw_again)]
    return Registry.from_specs(specs, Signature).plugins


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(CONFIG, plugins())))
    return found


def resolved(root: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """What a part refers to."""
    while "$ref" in part:
        found: Any = root
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def parts(part: Any) -> list[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(part, list):
        return [found for each in part for found in parts(each)]
    if isinstance(part, dict):
        return [part, *(found for each in part.values() for found in parts(each))]
    return []


@pytest.mark.parametrize("config", [CONFIG, Config()], ids=["everything", "nothing"])
def test_the_official_schema_takes_it(config: Config) -> None:
    try:
        schema = asyncapi_schema()
    except Missing as missing:
        pytest.skip(str(missing))
    validator = Draft7Validator(schema)
    for offered in (plugins(), []):
        whole = msgspec.json.decode(msgspec.json.encode(document(config, offered)))
        fault = best_match(validator.iter_errors(whole))
        assert fault is None, f"{fault.json_path}: {fault.message}"
    assert list(validator.iter_errors({**whole, "channels": {"a": {"adress": "b"}}}))  # it does tell


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    references = [part["$ref"] for part in parts(made) if "$ref" in part]
    assert len(references) > 20
    for part in parts(made):
        assert resolved(made, part) is not None


def test_every_payload_is_a_schema_of_draft_7(made: dict[str, Any]) -> None:
    for schema in made["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
        assert "prefixItems" not in str(schema)


def test_its_channels_are_the_topics(made: dict[str, Any]) -> None:
    addresses = {key: channel["address"] for key, channel in made["channels"].items()}
    assert addresses == {
        "tasks": "tasks",
        "orders": "orders",
        "_eu_.._": "{topic}",
        "tasks.dlq": "tasks.dlq",
        "orders.failed": "orders.failed",
        "_eu_.._.dlq": "{topic}.dlq",
        "answers": "answers",
        "_me-._": "{topic}",
        "booked": "booked",
    }
    assert made["channels"]["orders"]["description"] == "A record that names no task is one of ledger.book."
    assert "^eu" in made["channels"]["_eu_.._"]["parameters"]["topic"]["description"]
    assert made["channels"]["tasks"]["bindings"]["kafka"]["topic"] == "tasks"


def test_its_operations_are_what_a_worker_does(made: dict[str, Any]) -> None:
    operations = made["operations"]
    tasks = ["draw_shapes_", "draw_shapes_-2", "ledger.book", "ledger.book.avro"]
    results = ["draw_shapes_.result", "draw_shapes_.result-2", "ledger.book.result"]
    expected = {
        **{f"receive.{key}": tasks for key in ("tasks", "orders", "_eu_.._")},
        **{f"send.{key}": ["dead-letter"] for key in ("tasks.dlq", "orders.failed", "_eu_.._.dlq")},
        **{f"send.{key}": results for key in ("answers", "_me-._")},
        "send.booked": ["ledger.book.result"],
    }
    found = {
        key: sorted(ref["$ref"].rpartition("/")[2] for ref in each["messages"]) for key, each in operations.items()
    }
    assert found == expected
    assert operations["receive.tasks"]["bindings"]["kafka"]["groupId"]["enum"] == ["accounting"]


def test_its_servers_are_the_brokers_without_secrets(made: dict[str, Any]) -> None:
    server = {
        "protocol": "kafka-secure",
        "security": [{"type": "scramSha512"}],
        "bindings": {"kafka": {"schemaRegistryUrl": "https://schemas:8081/a", "bindingVersion": "0.5.0"}},
    }
    assert made["servers"] == {
        "broker-1": {"host": "kafka-1:9092", **server},
        "broker-2": {"host": "kafka-2:9092", **server},
    }
    assert "hunter2" not in str(made)


def validator_of(made: dict[str, Any], schema: Any) -> Draft7Validator:
    """Judges by a schema of the document, whose references lead into the document."""
    return Draft7Validator({**resolved(made, schema), "components": made["components"]})


@pytest.mark.parametrize(
    ("message", "payload", "fits"),
    [
        ("ledger.book", {"cents": 5}, True),
        ("ledger.book", {"cents": "5"}, False),
        ("ledger.book", {}, False),
        ("ledger.book", {"cents": 5, "more": 1}, False),
        ("draw_shapes_", {"shapes": [{"type": "circle", "radius": 1}], "at": [2, "b"], "more": 1}, True),
        ("draw_shapes_", {"shapes": [{"type": "circle", "side": 1}]}, False),
        ("draw_shapes_", {"shapes": [], "at": ["b", 2]}, False),
        ("draw_shapes_", {"shapes": [], "at": [2, "b", 3]}, False),
        ("draw_shapes_", {"shapes": [], "size": "huge"}, False),
        ("draw_shapes_-2", {"on": None, "square": {"type": "square", "side": 1}}, True),
    ],
)
def test_what_it_says_of_a_payload_is_what_a_worker_says(
    made: dict[str, Any], message: str, payload: Any, fits: bool
) -> None:
    described = made["components"]["messages"][message]
    assert validator_of(made, described["payload"]).is_valid(payload) is fits
    with MemoryWorker(book, draw, draw_again) as worker:
        worker.publish(described["name"], payload)
        worker.run()
        assert worker.succeeded == fits


def test_what_it_says_of_a_result_is_what_a_worker_sends(made: dict[str, Any]) -> None:
    described = made["components"]["messages"]["ledger.book.result"]
    with MemoryWorker(book) as worker:
        worker.publish("ledger.book", {"cents": 5})
        worker.run()
        (reply,) = worker.replies
    assert validator_of(made, described["payload"]).is_valid(reply.payload)
    headers = {name: (value or b"").decode() for name, value in reply.headers.items()}
    assert list(validator_of(made, described["headers"]).iter_errors(headers)) == []


def test_what_it_says_of_a_dead_letter_is_what_a_worker_sends(made: dict[str, Any]) -> None:
    with MemoryWorker(book) as worker:
        worker.publish("ledger.book")
        worker.run()
        (letter,) = worker.dead_letters
    headers = {name: (value or b"").decode() for name, value in letter.record.headers}
    described = made["components"]["messages"]["dead-letter"]["headers"]
    assert list(validator_of(made, described).iter_errors(headers)) == []
    assert {name for name in headers if name.startswith("kworker-")} <= described["properties"].keys()


def test_a_task_is_described_by_the_first_line_of_its_function(made: dict[str, Any]) -> None:
    messages = made["components"]["messages"]
    assert messages["ledger.book"]["summary"] == "Books an amount."
    assert messages["draw_shapes_"]["summary"] == "Runs draw shapes!."
    assert messages["ledger.book.avro"]["payload"]["schema"] == RECORD
    assert messages["ledger.book"]["headers"]["properties"]["ce_type"]["const"] == "ledger.book"
    assert messages["ledger.book"]["headers"]["required"] == ["ce_type"]
