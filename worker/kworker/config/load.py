"""Reading the configuration: flags over environment over kworker.toml, and every fault of all three at once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from kworker.config.config import Config, TopicSettings, Vet
from kworker.config.options import LONGEST_TOPIC, OPTIONS, TASK_OPTIONS, TOPIC_OPTIONS, Option, Reader, parted
from kworker.config.properties import PREFIX, properties, service_link
from kworker.config.schedules import schedules
from kworker.config.schema_registry import PREFIX as REGISTRY_PREFIX
from kworker.config.schema_registry import settings as registry_settings
from kworker.task import DEAD_LETTER_SUFFIX

FILE = "kworker.toml"
"""Read from the working directory when no other file is named."""

_TABLES = {
    "kafka": "properties of the Kafka client",
    "tasks": 'name each: [tasks."name"]',
    "topics": 'name each: [topics."name"]; the list of topics to read is called topic',
    "plugins": "name each: [plugins.name]; the list of plugins to load is called plugin",
    "schema_registry": "its keys are url and those that say how to reach it",
}
_SCHEDULES = "schedules"  # one that is not there says something else than an empty one
_LONGEST_POLL_INTERVAL = "300000"


class _Given(NamedTuple):
    where: str
    value: object
    text: bool


def find(flag: str | None, environ: Mapping[str, str], directory: Path) -> Path | None:
    """The file named by `--config` or KWORKER_CONFIG, else kworker.toml of `directory` if it is there."""
    named = flag or environ.get("KWORKER_CONFIG")
    if named:
        return Path(named)
    return directory / FILE if (directory / FILE).is_file() else None


def read(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None, vet: Vet | None, group_needed: bool
) -> tuple[Config, list[str]]:
    """See `Config.read`."""
    faults: list[str] = []
    environ = {n: v for n, v in environ.items() if n.startswith("KWORKER_") and v and not service_link(n, v)}
    document = _document(file, faults)
    unread = file is not None and bool(faults) and not any(document.values())
    registry = document.pop("schema_registry")
    if "url" in registry:
        document["schema_registry"] = registry.pop("url")
    given = {option: found for option in OPTIONS if (found := _given(option, flags, environ, document, file))}
    fields: dict[str, Any] = {}
    for option, found in given.items():
        _fill(fields, option, found, faults)
    fields["admin_port_explicit"] = "admin_port" in fields
    if "concurrency" in fields and "lost_slots" not in fields:
        fields["lost_slots"] = max(4, fields["concurrency"] // 2)

    url = fields.pop("schema_registry", "")
    fields["schema_registry"] = registry_settings(url, environ, registry, str(file), faults)
    arguments = flags.get("kafka") or ()
    assert isinstance(arguments, Iterable)
    kafka = properties(arguments, environ, document["kafka"], str(file))
    faults += kafka.faults
    for name, why in (vet(kafka.values) if vet else {}).items():
        faults.append(f"{kafka.where.get(name, 'Kafka properties')}: {why}")
        kafka.values.pop(name, None)

    config = Config(
        **fields,
        kafka=kafka.values,
        secret_kafka=frozenset(kafka.secret),
        tasks=_tables(document["tasks"], TASK_OPTIONS, f"{file}: [tasks", dict, faults),
        topic_settings=_tables(
            document["topics"], TOPIC_OPTIONS, f"{file}: [topics", lambda values: TopicSettings(**values), faults
        ),
        plugin_settings=_tables(document["plugins"], None, f"{file}: [plugins", dict, faults),
        schedules=schedules(document.get(_SCHEDULES), fields.get("topics") or Config().topics, str(file), faults),
        file=file,
        notes=tuple(_strangers(environ)),
    )
    if group_needed and not unread and not any(option.name == "group" for option in given):
        faults.append(f"group: not given: name the consumer group with --group, KWORKER_GROUP or group in {FILE}")
    return config, faults + list(_contradictions(config))


def _document(file: Path | None, faults: list[str]) -> dict[str, Any]:
    """The parsed file; its tables are always there."""
    document: dict[str, Any] = {}
    try:
        if file is not None:
            document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}: name a file that can with --config")
    except UnicodeDecodeError:
        faults.append(f"{file}: is not UTF-8 text: save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{file}: is not TOML: {error}")
    known = list(dict.fromkeys([*(option.name for option in OPTIONS), *_TABLES, _SCHEDULES]))
    for key in document:
        if key not in known:
            faults.append(f"{file}: {key}: there is no such key{_meant(key, known)}")
    if isinstance(document.get("schema_registry"), str):
        document["schema_registry"] = {"url": document["schema_registry"]}
    for name, hint in _TABLES.items():
        if not isinstance(document.setdefault(name, {}), dict):
            faults.append(f"{file}: {name}: it is not a table: {hint}")
            document[name] = {}
    return document


def _given(
    option: Option, flags: Mapping[str, object], environ: Mapping[str, str], document: dict[str, Any], file: Path | None
) -> _Given | None:
    """The value that counts: the first source that has one."""
    flag = flags.get(option.name)
    if flag is not None and flag != ():
        return _Given(option.flag, flag, True)
    if option.variable in environ:
        value = environ[option.variable]
        return _Given(option.variable, parted(value) if option.many else value, True)
    if option.name in document:
        return _Given(f"{file}: {option.name}", document[option.name], False)
    return None


def _fill(fields: dict[str, Any], option: Option, given: _Given, faults: list[str]) -> None:
    values = given.value if option.many and isinstance(given.value, (list, tuple)) else [given.value]
    assert isinstance(values, Iterable)
    results = []
    for value in values:
        try:
            results.append(option.read(value, given.text))
        except ValueError as error:
            faults.append(f"{given.where}: {error}")
    if option.many and (results or not values):  # an empty list is a value; one whose every item is faulty is none
        fields[option.attribute] = tuple(dict.fromkeys(results))
    elif results:
        fields[option.attribute] = results[0]


def _tables(
    tables: dict[str, Any],
    readers: Mapping[str, Reader] | None,
    where: str,
    make: Callable[[dict[str, Any]], Any],
    faults: list[str],
) -> dict[str, Any]:
    """The tables of one kind by name; `readers` None takes any key."""
    result: dict[str, Any] = {}
    for name, table in tables.items():
        place = f"{where}.{name}]"
        if not isinstance(table, dict):
            faults.append(f"{place}: it is not a table: write its keys below a line {place.split(': ')[-1]}")
            continue
        values = {}
        for key, value in table.items():
            try:
                if readers is None:
                    values[key] = value
                elif key in readers:
                    values[key] = readers[key](value, False)
                else:
                    faults.append(f"{place} {key}: there is no such key{_meant(key, readers)}")
            except ValueError as error:
                faults.append(f"{place} {key}: {error}")
        result[name] = make(values)
    return result


def _contradictions(config: Config) -> Iterator[str]:
    """What cannot be meant together."""
    for topic in config.topics:
        yield from _impossible_topic(config, topic)
    for topic, settings in config.topic_settings.items():
        if settings.dead_letter == topic:
            yield f'[topics."{topic}"] dead_letter: dead letters would be run again: name another topic'
        elif settings.dead_letter and config.is_own(settings.dead_letter):
            yield f'[topics."{topic}"] dead_letter: {settings.dead_letter} is reserved for kworker: name another'
    if not config.topics:
        yield "topic: the list is empty: name a topic to read"
    if config.max_in_memory < config.concurrency:
        yield f"max_in_memory: {config.max_in_memory} is less than concurrency ({config.concurrency}): raise it"
    if len(f"{config.namespace}.retry.{config.group}") > LONGEST_TOPIC:
        yield "group: too long: with the namespace it is part of a topic's name, and that has at most 249 characters"
    interval = config.kafka.get("max.poll.interval.ms", _LONGEST_POLL_INTERVAL)
    if interval.isdecimal() and config.revoke_timeout * 1000 >= int(interval):
        yield f"revoke_timeout: {config.revoke_timeout:g}s must be shorter than max.poll.interval.ms ({interval})"


def _impossible_topic(config: Config, topic: str) -> Iterator[str]:
    if topic.startswith("^"):
        return
    if config.is_own(topic):
        yield f"topic {topic}: names that start with {config.namespace}. are kworker's own: read another topic"
    if any(other.startswith("^") for other in config.topics) and (
        topic.startswith("__") or config.is_dead_letter(topic)
    ):
        yield f"topic {topic}: a regular expression leaves such topics out: read it with another worker"
    if len(config.dead_letter(topic)) > LONGEST_TOPIC:
        yield f'topic {topic}: the name is too long to add {DEAD_LETTER_SUFFIX}: set dead_letter in [topics."{topic}"]'
    sources = {source for source, settings in config.topic_settings.items() if settings.dead_letter == topic}
    if topic.endswith(DEAD_LETTER_SUFFIX):
        sources.add(topic.removesuffix(DEAD_LETTER_SUFFIX))
    for source in sorted(sources - {topic}):
        if config.takes(source) and config.dead_letter(source) == topic:
            yield (
                f"topic {topic}: it holds the dead letters of {source}, which is read as well, so they would run "
                "for ever: read one of the two, or set another dead_letter"
            )


def _strangers(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like a misspelled option. Others that start with KWORKER_ may belong to somebody else."""
    known = [option.variable for option in OPTIONS] + ["KWORKER_CONFIG"]
    for name in sorted(environ):
        theirs = name in known or name.startswith((PREFIX, REGISTRY_PREFIX))
        if not theirs and (meant := get_close_matches(name, known, 1, 0.9)):
            yield f"the environment variable {name} is no option and is ignored: is {meant[0]} meant?"


def _meant(key: str, known: Iterable[str]) -> str:
    close = get_close_matches(key, list(known), 1, 0.6)
    return f": is {close[0]} meant?" if close else f"; there are: {', '.join(sorted(known))}"
