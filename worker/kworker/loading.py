"""Loading the plugins that a configuration names: in the worker, in its child processes, and to list them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from kworker.codecs.arguments import Signature
from kworker.config import Config
from kworker.executors import EXECUTORS
from kworker.registry import Registry


def load(
    config: Config,
    executors: Collection[str],
    only: str | None = None,
    telling: Callable[[str], None] = lambda step: None,
) -> Registry:
    """The tasks of the configured plugins, those of other executors as unavailable.

    only: one plugin alone, its tasks without the overrides of the configuration. telling: told of each step.
    Raises PluginError or ConfigError.
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
