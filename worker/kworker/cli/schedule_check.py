"""The part of `kworker check` that looks at schedules: those of the file and of the plugins, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AclOperation,
    AdminClient,
)

from kworker.cli.finding import Finding, fail, ok, warn
from kworker.config import Config
from kworker.kafka.delaylog import DelayLog
from kworker.kafka.settings import admin_settings
from kworker.registry import PluginInfo
from kworker.scheduling import wanted

_CALL = 5.0  # seconds that the question to the broker may take


def schedules(config: Config, plugins: Sequence[PluginInfo], *, reached: bool) -> Iterator[Finding]:
    """Whether they can be applied when a worker starts. reached: whether the broker answers."""
    found = wanted(config, plugins)
    yield from map(fail, found.faults)
    if not found.schedules:
        return
    offered = {task.spec.name for plugin in plugins for task in plugin.tasks if task.unavailable is None}
    for schedule in found.schedules:
        if schedule.task not in offered and config.takes(schedule.topic):
            yield warn(f"schedule {schedule.name}: no plugin offers {schedule.task} here, so its runs are dead letters")
    names = ", ".join(schedule.name for schedule in found.schedules)
    if not config.timekeeper:
        yield warn(f"schedules {names}: this worker publishes none (--timekeeper false): another one must")
    if reached:
        yield _delay_log(config, names)


def _delay_log(config: Config, names: str) -> Finding:
    log = DelayLog(config)
    client = AdminClient({"log_level": "2", **admin_settings(config)})  # no answer comes when it is gone
    answer = client.describe_topics(
        TopicCollection([log.name]), include_authorized_operations=True, request_timeout=_CALL
    )[log.name]
    try:
        may = answer.result(_CALL + 1).authorized_operations
    except TimeoutError:
        return warn(f"schedules {names}: whether the delay log {log.name} can be used is not known: no answer in time")
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            return fail(f"schedules {names}: the delay log {log.name} cannot be used: {error.args[0].str()}")
        if config.create_topics:
            return ok(f"schedules: {names}")
        command = log.create_command(config.delay_partitions)
        return fail(f"schedules {names}: the delay log {log.name} is missing: make it with: {command}")
    needed = {"Read": AclOperation.READ, "Write": AclOperation.WRITE}
    if (
        may is not None
        and AclOperation.ALL not in may
        and (less := [name for name, one in needed.items() if one not in may])
    ):
        return fail(f"schedules {names}: the delay log cannot be used: allow {' and '.join(less)} on topic {log.name}")
    return ok(f"schedules: {names}")
