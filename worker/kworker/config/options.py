"""What can be configured: one table of every option, and how each of its values is read.

A reader takes a raw value (`text` is True for a flag or an environment variable, False for a value of kworker.toml,
which has a type of its own) and returns the typed one, or raises ValueError that says what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from kworker.duration import seconds

Reader = Callable[[object, bool], object]

LONGEST_TOPIC = 249
"""Characters that Kafka allows in a topic's name."""

LOG_LEVELS = ("debug", "info", "warning", "error")

_LEGAL = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)
_BROKER = re.compile(r"(?:[a-zA-Z_]+://)?(?:\[[0-9a-fA-F:.%]+\]|[^\s:/,\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?", re.ASCII)
_UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COMMA = re.compile(r",(?![^{}]*\})")  # the one in ^a{1,2} parts nothing
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Its flag, environment variable and key in kworker.toml all come from `name`.

    field: the attribute of Config, when it is called otherwise. many: it holds a list; flags repeat, environment
    variables separate by commas.
    """

    name: str
    read: Reader
    metavar: str
    help: str
    field: str = ""
    many: bool = False

    @property
    def attribute(self) -> str:
        """The attribute of Config that it fills."""
        return self.field or self.name

    @property
    def flag(self) -> str:
        """As on the command line: `--drain-timeout`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As in the environment: `KWORKER_DRAIN_TIMEOUT`."""
        return "KWORKER_" + self.name.upper()


def whole(least: int, most: int) -> Reader:
    """A whole number within limits."""

    def read(value: object, text: bool) -> int:
        if text and re.fullmatch(r"-?[0-9]{1,18}", str(value).strip(), re.ASCII):
            value = int(str(value))
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{shown(value)} is not a whole number from {least} to {most}")
        return value

    return read


def duration(least: str, most: str) -> Reader:
    """A duration within limits, as seconds."""

    def read(value: object, text: bool) -> float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{shown(value)} is not a duration: write 250ms, 10s, 5m, 2h or 3d")  # noqa: TRY004 - a finding, not a bug
        result = seconds(value)
        if not seconds(least) <= result <= seconds(most):
            raise ValueError(f"{shown(value)} is not between {least} and {most}")
        return result

    return read


def size(value: object, text: bool) -> int:
    """A size in bytes: `64MiB`, or a number of bytes."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str) else None
    if match:
        value = int(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{shown(value)} is not a size: write 64MiB, 512KiB, 1GiB or a number of bytes")
    return value


def one_of(*choices: str) -> Reader:
    """One word of a few."""

    def read(value: object, text: bool) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in choices:
            raise ValueError(f"{shown(value)} is none of {', '.join(choices)}")
        return word

    return read


def boolean(value: object, text: bool) -> bool:
    """True or false."""
    result = _BOOLEANS.get(str(value).strip().lower()) if text else value
    if not isinstance(result, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")  # noqa: TRY004 - a finding, not a bug
    return result


def words(value: object, text: bool) -> str:
    """Any printable text but nothing."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 1000:
        raise ValueError(f"{shown(value)} is not a text of 1 to 1000 printable characters")
    return value.strip()


def legal(value: object, text: bool) -> str:
    """A topic's name, or what becomes a part of one."""
    name = value.strip() if isinstance(value, str) else ""
    if not _LEGAL.fullmatch(name) or name in (".", "..") or len(name) > LONGEST_TOPIC:
        raise ValueError(f"{shown(value)} is not 1 to {LONGEST_TOPIC} of the characters a-z A-Z 0-9 . _ -")
    return name


def subscription(value: object, text: bool) -> str:
    """A topic's name, or a regular expression that starts with ^."""
    if not isinstance(value, str) or not value.strip().startswith("^"):
        return legal(value, text)
    try:
        re.compile(value.strip())
    except re.error as error:
        raise ValueError(f"{shown(value)} is not a regular expression: {error}") from None
    return value.strip()


def parted(text: str) -> list[str]:
    """The items of a list that is separated by commas; empty ones are left out."""
    return [item for item in _COMMA.split(text) if item.strip()]


def brokers(value: object, text: bool) -> str:
    """One or more `host:port`, separated by commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [""]
    for part in parts:
        match = _BROKER.fullmatch(part)
        if match is None or not 0 < int(match[1] or 9092) < 65536:
            raise ValueError(f"{shown(part if isinstance(value, str) else value)} is not host:port of a Kafka broker")
    return ",".join(parts)


def urls(value: object, text: bool) -> str:
    """One or more http or https URLs, separated by commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [""]
    for part in parts:
        try:
            address = urlsplit(part)
            usable = address.scheme in ("http", "https") and address.hostname and (address.port or 1) > 0
        except ValueError:  # a port that is no number
            usable = False
        if not usable or not part.isprintable() or address.query or address.fragment:
            # Not quoted: it may hold a password.
            raise ValueError("it is not the address of a schema registry: write http(s)://host:port")
    return ",".join(part.rstrip("/") for part in parts)


def shown(value: object) -> str:
    """A value as faults quote it: short, escaped, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


OPTIONS: tuple[Option, ...] = (
    Option("group", legal, "NAME", "Consumer group: its workers share the work."),
    Option("topic", subscription, "NAME", "Topic to read, or ^regular expression; repeatable.", "topics", many=True),
    Option("bootstrap", brokers, "HOST:PORT,...", "Kafka brokers to start from."),
    Option("concurrency", whole(1, 10_000), "N", "Tasks that run at once in threads and coroutines."),
    Option("processes", whole(0, 1024), "N", "Child processes for tasks with executor=process."),
    Option(
        "order", one_of("unordered", "key", "partition"), "ORDER", "unordered, or one at a time by key or partition."
    ),
    Option("plugin", words, "NAME", "Load only this plugin (entry-point name); repeatable.", "plugins", many=True),
    Option("namespace", legal, "NAME", "Prefix of kworker's own topics."),
    Option("admin_host", words, "HOST", "Address of metrics and health."),
    Option("admin_port", whole(0, 65535), "PORT", "Port of metrics and health; 0 takes any free one."),
    Option("drain_timeout", duration("0s", "1d"), "DURATION", "How long a stop waits for running tasks."),
    Option("revoke_timeout", duration("0s", "1h"), "DURATION", "How long a rebalance waits for running tasks."),
    Option("from", one_of("earliest", "latest"), "WHERE", "Where a group without offsets starts.", "start_from"),
    Option("commit_interval", duration("10ms", "1m"), "DURATION", "How often finished offsets are committed."),
    Option("max_in_memory", whole(1, 10_000_000), "N", "Records in memory that are not finished."),
    Option("max_in_memory_bytes", size, "SIZE", "Bytes of the records in memory that are not finished."),
    Option("lost_slots", whole(1, 10_000), "N", "Hung threads after which the worker exits with code 6."),
    Option("child_tasks", whole(0, 1 << 60), "N", "Tasks after which a child process is replaced; 0 is never."),
    Option("child_resident", size, "SIZE", "Resident memory above which a child process is replaced after its task."),
    Option("child_memory", size, "SIZE", "Address space of a child process: a task that wants more gets MemoryError."),
    Option("child_cpu", duration("1s", "366d"), "DURATION", "Processor time of one task in a child process."),
    Option("child_files", whole(16, 1 << 30), "N", "Open files of a child process."),
    Option("workers", whole(1, 1024), "N", "Worker processes, under a supervisor when there are two or more."),
    Option("setup_timeout", duration("1s", "1d"), "DURATION", "How long plugins may take to be loaded and set up."),
    Option("stall_timeout", duration("1s", "1h"), "DURATION", "How long a worker may stand still before it is ended."),
    Option("create_topics", boolean, "BOOL", "Create missing dead-letter topics."),
    Option(
        "reply_topic",
        subscription,
        "NAME",
        "Where messages may ask replies to go; repeatable.",
        "reply_topics",
        many=True,
    ),
    Option("schema_registry", urls, "URL", "Schema registry for Avro with Confluent framing."),
    Option("tracing", boolean, "BOOL", "Trace tasks by OpenTelemetry; its SDK reads OTEL_* variables."),
    Option("timekeeper", boolean, "BOOL", "Hand over delayed tasks when they are due."),
    Option("delay_partitions", whole(1, 10_000), "N", "Partitions of the delay log and the retry topic."),
    Option("retry_in_memory", duration("0s", "366d"), "DURATION", "Retries that wait for longer go to the delay log."),
    Option("retry_in_lane", duration("0s", "366d"), "DURATION", "How long a retry may hold up its key or partition."),
    Option("state_dir", words, "DIR", "Folder for what a worker keeps of delayed tasks while it runs."),
    Option("log_format", one_of("console", "json"), "FORMAT", "console or json."),
    Option("log_level", one_of(*LOG_LEVELS), "LEVEL", f"{', '.join(LOG_LEVELS)}."),
)
"""Every option; the properties of the Kafka client (`-X`) and the tables of kworker.toml come beside them."""

TASK_OPTIONS: dict[str, Reader] = {
    "timeout": duration("0s", "366d"),
    "max_attempts": whole(1, 1_000_000),
    "concurrency": whole(1, 10_000),
    "retry_in_memory": duration("0s", "366d"),
}
"""What `[tasks."name"]` may override of @task."""

TOPIC_OPTIONS: dict[str, Reader] = {"task": words, "dead_letter": legal}
"""What `[topics."name"]` may say."""
