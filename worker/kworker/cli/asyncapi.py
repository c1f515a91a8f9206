"""`kworker plugins --asyncapi`: a worker with this configuration as an AsyncAPI 3.0 document.

Its servers are the brokers; its channels the topics that are read, those for dead letters and those for results; its
operations what a worker receives and sends there. Only tasks that run with this configuration are in it. What a task
publishes by `ctx.publish()` is not known beforehand and not in it. Nothing of it is a secret: of an address with a
password only the rest is shown.

Payloads are JSON Schemas of draft 7, which AsyncAPI takes without naming it; beside it stands the Avro schema of a task
that declares one.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kworker.codecs.arguments import Signature
from kworker.codecs.arguments_schema import avro_schema
from kworker.codecs.avro import AVRO
from kworker.codecs.parameters import schema_of_object
from kworker.config import Config
from kworker.plugin import TaskSpec
from kworker.registry import LoadedTask, PluginInfo
from kworker.task import DEAD_LETTER_SUFFIX, Reason
from kworker.version import __version__

Json = dict[str, Any]

_BINDING = {"bindingVersion": "0.5.0"}
_AVRO_FORMAT = "application/vnd.apache.avro+json;version=1.9.0"
_TEXT: Json = {"type": "string"}
_TIME: Json = {"type": "string", "format": "date-time"}
_NUMBER: Json = {"type": "string", "pattern": "^[0-9]+$"}
_DEAD_LETTER = "dead-letter"
_SASL = {"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512", "GSSAPI": "gssapi"}
_DATA = frozenset({"default", "enum", "const", "examples"})  # keywords whose values are data and no schemas


class _Topic(NamedTuple):
    """One topic, or those that match a pattern: their address has a parameter."""

    name: str
    address: str
    pattern: str = ""

    @classmethod
    def read(cls, topic: str) -> _Topic:
        """A topic as options name it: a name, or a pattern that begins with ^."""
        return cls(topic, "{topic}", topic) if topic.startswith("^") else cls(topic, topic)


def document(config: Config, plugins: Iterable[PluginInfo]) -> Json:
    """The document, as JSON has it."""
    tasks = [task for plugin in plugins for task in plugin.tasks if task.unavailable is None]
    return _Document(config, sorted(tasks, key=lambda task: task.spec.name)).build()


class _Document:
    """One document in the making."""

    def __init__(self, config: Config, tasks: list[LoadedTask]) -> None:
        self._config = config
        self._tasks = tasks
        self._keys: dict[tuple[str, str], str] = {}
        self._channels: Json = {}
        self._operations: Json = {}
        self._messages: Json = {}
        self._schemas: Json = {}

    def build(self) -> Json:
        """All of it."""
        received = [message for task in self._tasks for message in self._task(task)]
        for topic in self._config.topics:
            self._receive(topic, received)
        self._messages[_DEAD_LETTER] = _dead_letter()
        for topic in self._config.topics:
            self._operation("send", self._dead_letters(topic), [_DEAD_LETTER], "Records that were set aside, and why.")
        for topic, tasks in self._replies().items():
            results = [self._result(task) for task in tasks]
            self._operation("send", _Topic.read(topic), results, "What tasks returned.")
        group = self._config.group
        return {
            "asyncapi": "3.0.0",
            "info": {
                "title": f"kworker group {group}" if group else "kworker",
                "version": __version__,
                "description": "Background work on Kafka: each record is one task, in the form of CloudEvents 1.0.",
            },
            "defaultContentType": "application/json",
            "servers": _servers(self._config),
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": self._messages, "schemas": self._schemas},
        }

    def _receive(self, topic: str, messages: list[str]) -> None:
        operation, channel = self._operation("receive", _Topic.read(topic), messages, "Tasks to run.")
        rules = self._config.topic_settings.get(topic)
        if rules and rules.task:
            channel["description"] = f"A record that names no task is one of {rules.task}."
        if self._config.group:
            operation["bindings"] = {"kafka": {"groupId": {"type": "string", "enum": [self._config.group]}, **_BINDING}}

    def _operation(self, action: str, topic: _Topic, messages: list[str], summary: str) -> tuple[Json, Json]:
        """The operation on a topic and its channel, both with these messages among others."""
        key = self._key("channel", topic.name)
        channel = self._channels.setdefault(key, _channel(topic))
        made = {"action": action, "summary": summary, "channel": _ref("channels", key), "messages": []}
        operation = self._operations.setdefault(f"{action}.{key}", made)
        for message in messages:
            channel["messages"][message] = _ref("components", "messages", message)
            if (ref := _ref("channels", key, "messages", message)) not in operation["messages"]:
                operation["messages"].append(ref)
        return operation, channel

    def _dead_letters(self, topic: str) -> _Topic:
        if topic.startswith("^"):
            return _Topic(topic + DEAD_LETTER_SUFFIX, "{topic}" + DEAD_LETTER_SUFFIX, topic)
        return _Topic.read(self._config.dead_letter(topic))

    def _replies(self) -> dict[str, list[LoadedTask]]:
        """The topics for results, and the tasks whose results may go there."""
        replies = {topic: list(self._tasks) for topic in self._config.reply_topics}
        for task in self._tasks:
            if task.spec.reply_to and task.spec.reply_to not in self._config.reply_topics:
                replies.setdefault(task.spec.reply_to, []).append(task)
        return replies

    def _task(self, task: LoadedTask) -> list[str]:
        """The messages that ask for one task."""
        spec, signature = task.spec, task.signature
        assert isinstance(signature, Signature), "what is loaded from plugins is bound by it"
        key = self._key("message", spec.name)
        message = {
            "name": spec.name,
            "summary": _summary(spec),
            "headers": _headers(spec.name, self._config.reply_topics),
            "bindings": {"kafka": {"key": {"type": "string", "description": "The ordering key."}, **_BINDING}},
        }
        payload = self._schema(key, signature.struct)
        self._messages[key] = {**message, "contentType": "application/json", "payload": payload}
        avro = avro_schema(signature, spec)
        if avro.origin != "declared":
            return [key]
        twin = self._key("message", f"{spec.name}.avro")
        payload = {"schemaFormat": _AVRO_FORMAT, "schema": avro.definition}
        self._messages[twin] = {**message, "contentType": AVRO, "payload": payload}
        return [key, twin]

    def _result(self, task: LoadedTask) -> str:
        """The message that tells what one task returned."""
        name = f"{task.spec.name}.result"
        key = self._key("message", name)
        properties = _event(name) | {"ce_causationid": {"type": "string", "description": "The id of the task."}}
        self._messages[key] = {
            "name": name,
            "summary": f"What {task.spec.name} returned.",
            "headers": {"type": "object", "properties": properties, "required": [*properties]},
            "payload": self._returned(key, task.spec),
        }
        return key

    def _returned(self, key: str, spec: TaskSpec) -> Json:
        try:
            return self._schema(key, typing.get_type_hints(spec.function, include_extras=True)["return"])
        except Exception:  # no annotation, or any expression of the plugin's: nothing is known of the result
            return {"description": "any value"}

    def _schema(self, key: str, kind: Any) -> Json:
        """The schema of a type. The named types in it go to the components, by the message's key and their names."""
        template = f"#/components/schemas/{key}.{{name}}"
        (root,), parts = msgspec.json.schema_components([kind], schema_hook=schema_of_object, ref_template=template)
        self._schemas |= {f"{key}.{name}": _draft_7(part) for name, part in parts.items()}
        payload: Json = _draft_7(root)
        return payload

    def _key(self, kind: str, name: str) -> str:
        """A name as a key that every tool takes, its own among those of its kind: letters, digits and . _ - only."""
        if (kind, name) not in self._keys:
            key = base = re.sub(r"[^A-Za-z0-9._-]", "_", name)
            taken = {key for (other, _), key in self._keys.items() if other == kind} | {_DEAD_LETTER}
            number = 2
            while key in taken:
                key, number = f"{base}-{number}", number + 1
            self._keys[kind, name] = key
        return self._keys[kind, name]


def _channel(topic: _Topic) -> Json:
    if topic.pattern:
        parameters = {"topic": {"description": f"The name of a topic that matches {topic.pattern}"}}
        return {"address": topic.address, "parameters": parameters, "messages": {}}
    return {
        "address": topic.address,
        "messages": {},
        "bindings": {"kafka": {"topic": topic.address, **_BINDING}},
    }


def _servers(config: Config) -> Json:
    """One server for each broker to start from."""
    protocol = config.kafka.get("security.protocol", "plaintext").lower()
    server: Json = {"protocol": "kafka-secure" if "ssl" in protocol else "kafka"}
    mechanism = config.kafka.get("sasl.mechanism", config.kafka.get("sasl.mechanisms", "GSSAPI")).upper()
    if "sasl" in protocol and mechanism in _SASL:
        server["security"] = [{"type": _SASL[mechanism]}]
    if config.schema_registry is not None:
        address = urlsplit(config.schema_registry.url.split(",")[0])
        url = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        server["bindings"] = {"kafka": {"schemaRegistryUrl": url, **_BINDING}}
    hosts = [host.strip() for host in config.bootstrap.split(",")]
    return {f"broker-{number}": {"host": host, **server} for number, host in enumerate(hosts, 1)}


def _headers(task: str, reply_topics: Iterable[str]) -> Json:
    """The headers of a message that asks for a task. Only its name is needed."""
    properties = _event(task) | {
        "ce_deadline": {**_TIME, "description": "It is not run after this, but a dead letter."},
        "content-type": _TEXT,
    }
    allowed = [{"pattern" if topic.startswith("^") else "const": topic} for topic in reply_topics]
    if allowed:
        properties["ce_replyto"] = {"type": "string", "anyOf": allowed, "description": "Where its result is sent."}
    return {"type": "object", "properties": properties, "required": ["ce_type"]}


def _event(kind: str) -> Json:
    """The headers that every message of kworker may have."""
    return {
        "ce_type": {"type": "string", "const": kind},
        "ce_id": _TEXT,
        "ce_source": _TEXT,
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_time": _TIME,
    }


def _dead_letter() -> Json:
    properties = {
        "kworker-reason": {"type": "string", "enum": [reason.value for reason in Reason]},
        **{f"kworker-error-{name}": _TEXT for name in ("type", "message", "stack", "fingerprint")},
        **{f"kworker-{name}": _NUMBER for name in ("attempts", "first-seen", "failed-at")},
        **{f"kworker-{name}": _TEXT for name in ("origin", "group", "worker")},
        "kworker-truncated": {**_NUMBER, "description": "Its value was cut: it had so many bytes."},
    }
    optional = ("kworker-error-stack", "kworker-truncated")
    return {
        "name": _DEAD_LETTER,
        "summary": "A record that was set aside: its key, value and headers byte for byte, and why.",
        "headers": {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name not in optional],
        },
    }


def _summary(spec: TaskSpec) -> str:
    """The first line of the function's docstring, else its name."""
    lines = (spec.function.__doc__ or "").strip().splitlines()
    return lines[0] if lines else f"Runs {spec.name}."


def _ref(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}


def _draft_7(schema: Any) -> Any:
    """A JSON Schema of 2020-12 in the words of draft 7: arrays by position, and references that stand alone."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found: Json = {}
    for word, value in schema.items():
        if word == "properties":
            found[word] = {name: _draft_7(part) for name, part in value.items()}
        elif word == "discriminator":  # a name in AsyncAPI, an object in OpenAPI and msgspec
            found[word] = value["propertyName"]
        else:
            found[word] = value if word in _DATA else _draft_7(value)
    if "prefixItems" in found:
        rest = found.pop("items", True)
        found |= {"items": found.pop("prefixItems"), "additionalItems": rest}
    if "$ref" in found and len(found) > 1:
        found = {"allOf": [{"$ref": found.pop("$ref")}], **found}
    return found
