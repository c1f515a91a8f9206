"""The schedules of a configuration, put into the delay log: those of kworker.toml, and those of its plugins.

Owns the thread kworker-schedules of a worker, which ends when they stand. Promises: the worker's start does not wait
for it, and no broker that is slow or forbids it ends the worker; of workers that start at once one writes, since each
first fences the others and then reads what stands (kafka/transaction.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaException, Producer
from msgspec.structs import replace

from kworker.config import Config
from kworker.core import applying
from kworker.core.applying import Applied
from kworker.core.delayed import Answer
from kworker.core.scheduled import check, key_of, record
from kworker.errors import DelayError
from kworker.kafka.cancelling import cancel
from kworker.kafka.delaylog import DelayLog, writer_settings
from kworker.kafka.settings import consumer_settings, producer_settings
from kworker.kafka.standings import Standings, read
from kworker.kafka.transaction import KEY_DECIDES, Failed, Ousted, Placed, Refused, Transactions
from kworker.registry import PluginInfo
from kworker.schedules.schedule import Schedule
from kworker.task import Publication

log = logging.getLogger(__name__)

_FIRST, _LONGEST = 2.0, 300.0  # seconds between two tries
_ANSWER = 30.0  # seconds for a removal: a worker that starts may be the one that answers


class Wanted(NamedTuple):
    """The schedules of a configuration. kept: names of those whose task does not run here, but may elsewhere in the
    group. faults: what is wrong with the others, a line each."""

    schedules: list[Schedule]
    kept: set[str]
    faults: list[str]
    of_plugins: bool
    """Whether a plugin has any."""


def sources(group: str) -> tuple[str, str]:
    """What `Schedule.source` says of a group's kworker.toml, and of its plugins."""
    return f"file:{group}", f"plugin:{group}"


def wanted(config: Config, plugins: Sequence[PluginInfo]) -> Wanted:
    """What the configuration wants to stand. A table of kworker.toml counts over a plugin's schedule of its name."""
    of_file, of_plugin = sources(config.group)
    topic = next(iter(config.named_topics), "")
    found = {schedule.name: replace(schedule, source=of_file) for schedule in config.schedules or ()}
    of_plugins: dict[str, Schedule] = {}
    kept: set[str] = set()
    faults: list[str] = []
    tasks = [task for plugin in plugins for task in plugin.tasks]
    for task in tasks:
        for spec in task.spec.schedules:
            try:
                if not (spec.topic or topic):
                    raise ValueError("name its topic: the worker reads none by name")
                schedule = spec.of(task.spec.name, topic, of_plugin)
                if schedule.name in of_plugins:
                    raise ValueError(f"schedule {schedule.name}: another one has this name: give one another (name=)")
                check(schedule)
            except ValueError as error:
                faults.append(f'{task.origin}: @schedule of "{task.spec.name}": {error}')
                continue
            of_plugins[schedule.name] = schedule
            if task.unavailable is not None:
                kept.add(schedule.name)
    found |= {name: one for name, one in of_plugins.items() if name not in found and name not in kept}
    return Wanted(list(found.values()), kept, faults, bool(of_plugins or faults))


def apply(config: Config, found: Wanted, *, all_sources: bool = False) -> Applied:
    """Make them stand; returns what was changed. It blocks.

    all_sources: what came from the file, or from plugins, is removed also when those say nothing of schedules now.
    Raises DelayError, Failed, Refused, KafkaException or TimeoutError.
    """
    of_file, of_plugin = sources(config.group)
    own = {of_file} if all_sources or config.schedules is not None else set()
    own |= {of_plugin} if all_sources or found.of_plugins else set()
    delay_log = DelayLog(config)
    if found.schedules:
        if why := delay_log.ensure(config.delay_partitions, create=config.create_topics):
            raise DelayError(why)
    elif not delay_log.exists():
        return Applied([], [], {})
    writer = Transactions(writer_settings(config), f"{delay_log.name}-schedules")
    try:
        writer.start()
        standings = read(delay_log.name, consumer_settings(config))
        standing = {name: stood.standing for name, stood in standings.by_name.items()}
        for name in standings.newer:
            log.warning("a schedule is left as it is: only newer workers can read it", extra={"schedule": name})
        known = [schedule for schedule in found.schedules if schedule.name not in standings.newer]
        change = applying.apply(known, standing, own, time.time(), found.kept)
        if records := _records(change, standings, delay_log.name):
            writer.write(records)
    finally:
        writer.close()
    _remove(config, change, delay_log.name)
    return change


def _records(change: Applied, standings: Standings, delay_log: str) -> list[Placed]:
    records: list[Placed] = []
    for standing in change.written:
        name = standing.schedule.name
        stood = standings.by_name.get(name)
        # Nobody answered: the next owner would remove what is written now.
        records += [(Publication(delay_log, key, None, []), place) for place, key in standings.requests.get(name, ())]
        records.append((record(standing, delay_log), KEY_DECIDES if stood is None else stood.partition))
    return records


def _remove(config: Config, change: Applied, delay_log: str) -> None:
    if not change.removed:
        return
    keys = [key_of(name) for name in change.removed]
    producer = Producer({**producer_settings(config), "linger.ms": "0"})
    answers = cancel(delay_log, keys, _ANSWER, producer=producer, settings=consumer_settings(config))
    for name, answer in zip(change.removed, answers, strict=True):
        if answer is None:
            log.warning("nobody keeps time, so a schedule is removed by the next who does", extra={"schedule": name})
        elif answer is Answer.CANCELLED:
            log.info("schedule removed", extra={"schedule": name})


class Scheduling:
    """See the module: the schedules of one worker."""

    def __init__(self, config: Config, plugins: Sequence[PluginInfo]) -> None:
        self._config = config
        self._wanted = wanted(config, plugins)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, if there is anything to do."""
        for fault in self._wanted.faults:
            log.warning("a schedule is left out: %s", fault)
        if self._config.schedules is not None or self._wanted.of_plugins:
            threading.Thread(target=self._run, name="kworker-schedules", daemon=True).start()

    def stop(self) -> None:
        """Try no more."""
        self._stopping.set()

    def _run(self) -> None:
        wait, told = _FIRST, ""
        while not self._stopping.is_set():
            try:
                tell(apply(self._config, self._wanted))
                return
            except Ousted:
                log.debug("another worker applies its schedules")
            except (KafkaException, DelayError, Failed, Refused, TimeoutError) as error:
                if (why := fault_of(error)) != told:
                    told = why
                    log.warning("the schedules could not be applied, it is tried again: %s", why)
            except Exception:  # the thread must not end before they stand
                log.exception("applying the schedules raised, it is tried again")
            self._stopping.wait(wait)
            wait = min(wait * 2, _LONGEST)


def tell(change: Applied) -> None:
    """What was changed, and what could not be, to the log."""
    for standing in change.written:
        log.info("schedule applied", extra={"schedule": standing.schedule.name, "task": standing.schedule.task})
    for name, source in change.foreign.items():
        owner = source or "somebody's hand"
        log.warning("a schedule is left as it is: it came from %s", owner, extra={"schedule": name})


def fault_of(error: Exception) -> str:
    """Why `apply` raised, on one line."""
    if isinstance(error, KafkaException):
        return str(error.args[0].str())
    return str(error) or "no answer in time"
