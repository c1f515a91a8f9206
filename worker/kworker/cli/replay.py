"""`kworker replay`: one record of a topic, decoded and run here as a worker would, once.

It promises to change nothing at the broker: it joins no group, commits nothing, and what the task publishes, or the
dead letter it would become, is shown and not sent. What the task itself does is done.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.dlq.place import Place
from kworker.errors import ConfigError, DecodeError
from kworker.task import ErrorInfo, Outcome, Publication, Record, Success, Task
from kworker.terminal import printable

if TYPE_CHECKING:
    from kworker.registry import LoadedTask, Registry

TIMEOUT = 10.0
"""Seconds that the broker may take to answer, and to give the record."""

_GROUP = "kworker-replay"  # a consumer must have the name of one; it is neither joined nor asked
_MOST_SHOWN = 2_000


class Given(NamedTuple):
    """What is run: the task, and which attempt it is told to be."""

    task: Task
    attempt: int


@click.command(epilog=SOURCES)
@click.argument("place", metavar="TOPIC:PARTITION:OFFSET")
@click.option("--attempt", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="What ctx.attempt is.")
@click.option("--pdb", "debug", is_flag=True, help="Open the debugger where the task raised.")
@config_options("bootstrap", "plugin", "processes", "namespace", "schema_registry", "log_format", "log_level")
def replay(place: str, attempt: int, debug: bool, **flags: Any) -> None:
    """Run one record of a topic here, once, as a worker would; commits and publishes nothing.

    The task is really run, with all that it does elsewhere. Its timeout is not enforced. Exit code 0 when it
    succeeded, 1 when not, 2 when there is no such record.
    """
    from kworker import logs
    from kworker.kafka.settings import faults
    from kworker.loading import executors, load

    where = Place.parse(place)
    config = Config.load(*sources(flags), vet=faults, group_needed=False)
    registry = load(config, executors(config))
    record = read(config, where)
    stop_logs = logs.start(config.log_format, config.log_level)
    try:
        succeeded = _replay(config, registry, record, where, attempt, debug)
    finally:
        stop_logs()
    sys.exit(0 if succeeded else 1)


def read(config: Config, place: Place) -> Record:
    """The record at this place. Raises ConfigError when there is none, or no answer."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from kworker.kafka.settings import consumer_settings

    silent = logging.getLogger("kworker.replay")
    silent.disabled = True  # what librdkafka would log is part of the fault
    complaints: list[str] = []
    settings = {
        **consumer_settings(config),
        "group.id": config.group or _GROUP,
        "queued.min.messages": "1",
        "logger": silent,
        "error_cb": lambda error: complaints.append(error.str()),
    }
    consumer = Consumer(settings)
    try:
        _look(consumer, place)
        consumer.assign([TopicPartition(*place)])
        return _poll(consumer, place)
    except KafkaException as error:
        why = next(iter(complaints), error.args[0].str())
        raise ConfigError(
            [f"{place}: broker {config.bootstrap}: {why}: check --bootstrap, its security, and that Read is allowed"]
        ) from error
    finally:
        consumer.close()


def _look(consumer: Any, place: Place) -> None:
    """Raises ConfigError when the topic, its partition or the offset do not exist, KafkaException for no answer."""
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    topic = consumer.list_topics(place.topic, timeout=TIMEOUT).topics[place.topic]
    if topic.error is not None:
        if topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(topic.error)
        raise ConfigError([f"{place}: there is no topic {place.topic} at this broker"])
    if place.partition not in topic.partitions:
        raise ConfigError([f"{place}: {place.topic} has the partitions 0 to {len(topic.partitions) - 1}"])
    low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT)
    if low == high:
        raise ConfigError([f"{place}: {place.topic}/{place.partition} is empty; its next offset is {high}"])
    if not low <= place.offset < high:
        raise ConfigError([f"{place}: {place.topic}/{place.partition} has the offsets {low} to {high - 1}"])


def _poll(consumer: Any, place: Place) -> Record:
    from confluent_kafka import KafkaError, KafkaException

    deadline = time.monotonic() + TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        message: Any = consumer.poll(left)
        if message is None:
            continue
        error = message.error()
        if error is None and message.offset() == place.offset:
            return message  # type: ignore[no-any-return]  # a Message, which is a Record: see kworker.task
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        raise ConfigError(  # the fetch went beyond it
            [
                f"{place}: there is no record: it was compacted away, of an aborted transaction, or the mark of one; "
                f"the next is at {message.offset()}"
            ]
        )
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def _replay(config: Config, registry: Registry, record: Record, place: Place, attempt: int, debug: bool) -> bool:
    from kworker.core.wire import decode
    from kworker.executors import here

    rules = config.topic_settings.get(place.topic)
    task = decode(record, registry.tasks, rules.task if rules else None)
    if isinstance(task, DecodeError):
        _tell("record", place)
        _tell_dead(config, place, task.reason, ErrorInfo(task.code, str(task)))
        return False
    loaded = registry.tasks[task.name]
    _tell("record", f"{place}, {task.size} bytes, key {task.key!r:.100}")
    _tell("task", f"{task.name}, id {task.id}, attempt {attempt} of {loaded.spec.max_attempts}")
    registry.setup({loaded.spec.executor})
    try:
        outcome, error = here.attempt(Given(task, attempt), loaded)
        _tell_outcome(config, place, loaded, outcome, attempt)
        if debug and error is not None:
            import pdb

            pdb.post_mortem(error.__traceback__)
    finally:
        registry.teardown()
    return isinstance(outcome, Success)


def _tell_outcome(config: Config, place: Place, loaded: LoadedTask, outcome: Outcome, attempt: int) -> None:
    from kworker.core.retry import Dead

    if isinstance(outcome, Success):
        _tell("outcome", "succeeded")
        _tell("result", _json(outcome.result))
        for publication in outcome.publish:
            _tell("publish", _described(publication))
        _tell("broker", f"nothing was committed or published{_instead(len(outcome.publish))}")
        return
    decision = loaded.route().policy.decide(outcome, attempt, 0.0, 0.0)
    if isinstance(decision, Dead):
        _tell_dead(config, place, decision.reason, decision.error)
        return
    counts = f"as attempt {attempt + 1} of {loaded.spec.max_attempts}" if decision.counts else "as no further attempt"
    _tell_error("failed", decision.error)
    _tell("worker", f"would try again after {decision.wait:g} s, {counts}")
    _tell("broker", "nothing was committed or published")


def _tell_dead(config: Config, place: Place, reason: str, error: ErrorInfo) -> None:
    _tell_error("failed", error)
    _tell("worker", f"would set it aside in {config.dead_letter(place.topic)}: {reason}")
    _tell("broker", "nothing was committed or published")


def _tell_error(outcome: str, error: ErrorInfo) -> None:
    _tell("outcome", outcome)
    _tell("error", f"{error.type}: {error.message}")
    if error.stack:
        click.echo(printable(error.stack.rstrip(), "\n"))


def _instead(count: int) -> str:
    return f"; a worker would publish {count} {'message' if count == 1 else 'messages'}" if count else ""


def _described(publication: Publication) -> str:
    """A message that was not sent, on one line."""
    headers = dict(publication.headers)
    name, value = headers.get("ce_type") or b"", publication.value
    shown = "null" if value is None else value.decode("utf-8", "backslashreplace")
    return f"{publication.topic}: {name.decode('utf-8', 'backslashreplace')} key {publication.key!r:.100} {shown}"


def _json(result: object) -> str:
    """A result as JSON, or as Python shows it where JSON cannot hold it."""
    import msgspec

    try:
        return msgspec.json.encode(result).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        return f"{result!r} (which JSON cannot hold)"


def _tell(what: str, text: object) -> None:
    shown = printable(str(text), "\n")
    click.echo(f"{what:<8} {shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + ' ...'}")
