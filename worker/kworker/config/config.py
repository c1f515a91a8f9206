"""The configuration of a process, as one frozen value; and how it is shown without its secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from kworker.config.schema_registry import SchemaRegistrySettings
from kworker.errors import ConfigError
from kworker.schedules.schedule import Schedule
from kworker.task import DEAD_LETTER_SUFFIX

Vet = Callable[[Mapping[str, str]], Mapping[str, str]]
"""What is wrong with properties of the Kafka client: property (or '' for several together) -> what, and what to do."""

MASK = "********"

_SECRET = re.compile(
    r"passw|secret|token|pem$|\.pem\.|oauthbearer\.config|credential|private.?key|api.?key|authorization|cookie", re.I
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """How to read one topic: the task of records that name none, and where its dead letters go."""

    task: str | None = None
    dead_letter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Config:
    """Everything that can be configured; times are in seconds, sizes in bytes.

    topics: names, and regular expressions that start with ^. plugins: the allow-list of entry-point names; None is
    all that are installed. admin_port_explicit: the port was asked for, so a busy one is an error. max_in_memory,
    max_in_memory_bytes: limits of the records that are not finished. lost_slots: hung threads after which the worker
    ends. child_tasks, child_resident: what a child process is replaced after: tasks, 0 is never; bytes of resident
    memory. child_memory, child_cpu, child_files: what the kernel lets it have: bytes of address space, seconds of
    processor time for one task, open files. stall_timeout: after so much silence of its loop, or while something
    holds the GIL, a worker is ended. kafka: librdkafka properties. tasks: options of @task to override, by task
    name. plugin_settings: tables by entry-point name. schedules: those of the file; None when it says nothing of them.
    file: the kworker.toml that was read. notes: what is worth a line
    in the log at start.
    """

    group: str = ""
    topics: tuple[str, ...] = ("tasks",)
    bootstrap: str = "127.0.0.1:9092"
    concurrency: int = 64
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    order: Literal["unordered", "key", "partition"] = "unordered"
    plugins: tuple[str, ...] | None = None
    namespace: str = "kworker"
    admin_host: str = "127.0.0.1"
    admin_port: int = 9464
    admin_port_explicit: bool = False
    drain_timeout: float = 25.0
    revoke_timeout: float = 10.0
    start_from: Literal["earliest", "latest"] = "earliest"
    commit_interval: float = 1.0
    max_in_memory: int = 20_000
    max_in_memory_bytes: int = 64 << 20
    lost_slots: int = 32
    child_tasks: int = 0
    child_resident: int | None = None
    child_memory: int | None = None
    child_cpu: float | None = None
    child_files: int | None = None
    workers: int = 1
    setup_timeout: float = 300.0
    stall_timeout: float = 30.0
    create_topics: bool = True
    reply_topics: tuple[str, ...] = ()
    schema_registry: SchemaRegistrySettings | None = None
    tracing: bool = False
    timekeeper: bool = True
    delay_partitions: int = 4
    retry_in_memory: float = 30.0
    retry_in_lane: float = 3600.0
    state_dir: str | None = None
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kafka: Mapping[str, str] = field(default_factory=dict)
    secret_kafka: frozenset[str] = frozenset()
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    topic_settings: Mapping[str, TopicSettings] = field(default_factory=dict)
    plugin_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schedules: tuple[Schedule, ...] | None = None
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        file: Path | None,
        *,
        vet: Vet | None = None,
        group_needed: bool = True,
    ) -> Config:
        """Flags over environment over file over defaults.

        flags: by option name (`drain_timeout`), None or empty when not given; `kafka` holds the arguments of -X.
        vet: judges the Kafka properties. Raises ConfigError with every fault: what, where, and what to do.
        """
        config, faults = cls.read(flags, environ, file, vet=vet, group_needed=group_needed)
        if faults:
            raise ConfigError(faults)
        return config

    @classmethod
    def read(
        cls,
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        file: Path | None,
        *,
        vet: Vet | None = None,
        group_needed: bool = True,
    ) -> tuple[Config, list[str]]:
        """Like `load`, but returns what can be used beside the faults; what is faulty has its default."""
        from kworker.config.load import read

        return read(flags, environ, file, vet, group_needed)

    @property
    def named_topics(self) -> list[str]:
        """The topics to read that are named, not matched by a regular expression."""
        return [topic for topic in self.topics if not topic.startswith("^")]

    @property
    def delays_retries(self) -> bool:
        """Whether long retries may wait in the delay log: this worker keeps time, nothing waits behind all of them, and
        no regular expression takes the retry topic for dead letters."""
        return self.timekeeper and self.order != "partition" and not self.group.endswith(DEAD_LETTER_SUFFIX)

    def dead_letter(self, topic: str) -> str:
        """The topic for dead letters of `topic`."""
        settings = self.topic_settings.get(topic)
        return (settings and settings.dead_letter) or topic + DEAD_LETTER_SUFFIX

    def is_own(self, topic: str) -> bool:
        """Whether the name is reserved for kworker's own topics."""
        return topic.startswith(self.namespace + ".")

    def is_dead_letter(self, topic: str) -> bool:
        """Whether the topic holds dead letters, by its name or by the configuration."""
        configured = (settings.dead_letter for settings in self.topic_settings.values())
        return topic.endswith(DEAD_LETTER_SUFFIX) or topic in configured

    def takes(self, topic: str) -> bool:
        """Whether the subscription means this topic.

        A regular expression never means kworker's own topics, dead letters, or Kafka's internal topics.
        """
        if topic in self.topics:
            return True
        if topic.startswith("__") or self.is_own(topic) or self.is_dead_letter(topic):
            return False
        return any(re.match(pattern, topic) for pattern in self.topics if pattern.startswith("^"))

    def redacted(self) -> dict[str, object]:
        """Every field by name, secrets masked: for logs, `check` and `/status`."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "secret_kafka"}
        shown["kafka"] = {name: MASK if name in self.secret_kafka else value for name, value in self.kafka.items()}
        shown["schedules"] = None if self.schedules is None else [schedule.name for schedule in self.schedules]
        if self.schema_registry is not None:
            shown["schema_registry"] = self.schema_registry.redacted(MASK)
        return {name: _masked(value) for name, value in shown.items()}

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.redacted().items())})"


def _masked(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: MASK if _SECRET.search(str(key)) else _masked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_masked(inner) for inner in value)
    return _USER_INFO.sub(MASK, value) if isinstance(value, str) else value
