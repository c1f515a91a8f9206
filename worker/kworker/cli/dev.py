"""`kworker dev`: a broker and a worker in one process, to try things out with nothing else installed."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.config.options import OPTIONS

if TYPE_CHECKING:
    from kworker.registry import LoadedTask, PluginInfo

GROUP = "dev"
"""The consumer group, unless one is configured."""

_SECURITY = ("security.", "sasl.", "ssl.", "enable.sasl.", "enable.ssl.")


@click.command(epilog=SOURCES)
@config_options(*(option.name for option in OPTIONS if option.name not in ("bootstrap", "workers")))
def dev(**flags: Any) -> None:
    """Run a worker with a broker of its own, and print where both are.

    The broker is in memory: whatever it holds is gone when this ends, and a partition keeps its last 5 MiB or 100,000
    records. A configured bootstrap and the security properties of another broker do not count.
    """
    from kworker.kafka.settings import faults
    from kworker.launch import launch

    config = Config.load(*sources(flags), vet=faults, group_needed=False)
    launch(config, lambda: _with_broker(config))


def _with_broker(config: Config) -> int:
    from kworker.cli.plugins import load_plugins
    from kworker.kafka.embedded import EmbeddedBroker
    from kworker.worker import run_worker

    with EmbeddedBroker() as broker:
        # The command to publish reads the same configuration: it must not offer this broker TLS.
        security = " -X security.protocol=plaintext" if "security.protocol" in config.kafka else ""
        config = _local(config, broker.bootstrap)
        for topic in config.named_topics:
            broker.create(topic)
            broker.create(config.dead_letter(topic))
        click.echo(_banner(config, load_plugins(config)[0], security))
        return run_worker(config)


def _local(config: Config, bootstrap: str) -> Config:
    """The same configuration for the embedded broker, with an admin port that is free now."""
    from kworker.health import open_port

    with open_port(config.admin_host, config.admin_port, explicit=config.admin_port_explicit) as free:
        port = free.getsockname()[1]
    return replace(
        config,
        bootstrap=bootstrap,
        group=config.group or GROUP,
        admin_port=port,
        kafka={name: value for name, value in config.kafka.items() if not name.startswith(_SECURITY)},
    )


def _arguments(task: LoadedTask) -> str:
    """A payload that the task takes, as JSON."""
    from kworker.cli.sample import sample
    from kworker.codecs.arguments import Signature

    arguments = sample(task.signature.struct) if isinstance(task.signature, Signature) else {}
    return json.dumps(arguments, ensure_ascii=False)


def _banner(config: Config, plugins: list[PluginInfo], security: str) -> str:
    broker, topic = config.bootstrap, next(iter(config.named_topics), "tasks")
    offered = [task for plugin in plugins for task in plugin.tasks if task.unavailable is None]
    tasks = [task.spec.name for task in offered]
    name, arguments = (tasks[0], shlex.quote(_arguments(offered[0]))) if offered else ("TASK", "'{}'")
    options = security if config.topics == (topic,) else f" --topic {topic}{security}"
    host = f"[{config.admin_host}]" if ":" in config.admin_host else config.admin_host
    return f"""\
kworker dev: a broker and a worker in this process. NOTHING IS KEPT: what the broker holds is gone when this ends.

  broker    {broker}
  topics    {", ".join(config.topics)}
  group     {config.group}
  tasks     {", ".join(tasks) or "none: install a plugin, such as kworker-http"}
  metrics   http://{host}:{config.admin_port}/metrics (also /livez /readyz /status)

Publish from another terminal; `kworker plugins --json` tells the arguments of each task:

  kworker publish --bootstrap {broker}{options} {name} {arguments}
  printf %s {arguments} | kcat -P -b {broker} -t {topic} -H task={name}

What fails for good becomes a dead letter:

  kcat -C -e -b {broker} -t {config.dead_letter(topic)} -f '%h %s\\n'
"""
