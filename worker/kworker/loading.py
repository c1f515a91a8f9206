"""Loading what a configuration names: the plugins, in the worker, in its child processes, and to list them; and what
the engine is told of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from kworker.codecs.arguments import Signature
from kworker.config import Config
from kworker.core.settings import EngineSettings, TopicRules
from kworker.executors import EXECUTORS
from kworker.registry import Registry


def load(
    config: Config,
    executors: Collection[str],
    only: str | None = None,
    telling: Callable[[str], None] = lambda step: None,
    strict: bool = True,
) -> Registry:
    """The tasks of the configured plugins, those of other executors as unavailable.

    only: one plugin alone, its tasks without the overrides of the configuration. telling: told of each step.
    strict: tables of tasks that no loaded plugin has are faults. Raises PluginError or ConfigError.
    """
    schemas = None
    if config.schema_registry is not None:
        from kworker.codecs.schema_registry import SchemaRegistry  # late: few workers need it

        schemas = SchemaRegistry(config.schema_registry)
    registry = Registry.load(
        allow=config.plugins if only is None else [only],
        settings=config.plugin_settings,
        overrides=config.tasks if only is None else {},
        bind=partial(Signature, schemas=schemas),
        executors=executors,
        telling=telling,
        strict=strict,
    )
    if config.tracing and only is None:
        from kworker.tracing import traced  # late: it needs an extra

        return traced(registry, config.group)
    return registry


def executors(config: Config) -> Collection[str]:
    """The executors that a worker with this configuration has."""
    return EXECUTORS if config.processes else [kind for kind in EXECUTORS if kind != "process"]


def in_children(config: Config) -> Callable[[], Registry]:
    """What a child process calls to load its tasks. It travels there as a pickle, without the secrets of Kafka."""
    return partial(load, replace(config, kafka={}, secret_kafka=frozenset()), ("process",))


def engine_settings(config: Config, slots: Mapping[str, int]) -> EngineSettings:
    """What the engine is told of the configuration. slots: by executor."""
    return EngineSettings(
        group=config.group,
        worker=f"{socket.gethostname()}-{os.getpid()}",
        slots=slots,
        order=config.order,
        most_records=config.max_in_memory,
        most_bytes=config.max_in_memory_bytes,
        commit_interval=config.commit_interval,
        reply_topics=frozenset(config.reply_topics),
        namespace=config.namespace,
        delays=config.delays_retries,
        retry_in_memory=config.retry_in_memory,
        retry_in_lane=config.retry_in_lane,
        topics={
            topic: TopicRules(settings.task, config.dead_letter(topic))
            for topic, settings in config.topic_settings.items()
        },
    )
