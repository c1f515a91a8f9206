"""The part of `kworker check` that looks at the delay log."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from confluent_kafka import KafkaException

from kworker.cli.finding import Finding, fail, ok, warn
from kworker.config import Config
from kworker.core.delayed import retry_topic
from kworker.kafka.delaylog import DelayLog, faults


def delay_log(config: Config, existing: Collection[str]) -> Iterator[Finding]:
    """Whether delayed tasks can wait, and are handed over. existing: all topics of the cluster."""
    log = DelayLog(config)
    if not config.timekeeper:
        why = "this worker hands none over (--timekeeper false): another one must; its retries wait in memory"
        yield warn(f"delayed tasks: {why}")
    if log.name not in existing:
        if config.create_topics:
            yield ok(f"topic {log.name}: does not exist yet; it is made with the first delayed task")
        else:
            command = log.create_command(config.delay_partitions)
            yield warn(f"topic {log.name}: it is missing, so tasks cannot be delayed; make it with: {command}")
        return
    try:
        settings = log.settings()
    except (KafkaException, TimeoutError) as error:
        yield warn(f"topic {log.name}: its settings cannot be read ({error}), so they are not checked")
        return
    wrong = faults(settings)
    for name, value in wrong.items():
        yield fail(
            f"topic {log.name}: {name}={settings.get(name)} may lose tasks that wait: "
            f"set it with: {log.repair_command({name: value})}"
        )
    if not wrong:
        yield ok(f"topic {log.name}: keeps delayed tasks")


def retries(config: Config, existing: Collection[str]) -> Iterator[Finding]:
    """Whether long retries can wait in the delay log, and come back."""
    if not config.group or not config.delays_retries:
        return
    name = retry_topic(config.namespace, config.group)
    what = f"retries of more than {config.retry_in_memory:g}s"
    if name in existing:
        yield ok(f"topic {name}: {what} come back there")
    elif config.create_topics:
        yield ok(f"topic {name}: does not exist yet; it is made with the first of {what}")
    else:
        command = DelayLog(config).retries_command(config.delay_partitions)
        yield warn(f"topic {name}: it is missing, so {what} wait in memory; make it with: {command}")
