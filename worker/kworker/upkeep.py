"""What a worker does for the topics it reads, in a thread of its own: the admin client's calls may take their time.

Owns the thread kworker-topics. Promises: a topic that is met gets its dead-letter topic; one that was deleted and made
anew under the worker is noticed within two looks, and read from its beginning. The consumer would not notice: it goes
on at its old offset, and what lies below in the new log would be lost silently.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException

from kworker.config import Config
from kworker.core.delayed import log_of
from kworker.kafka.delaylog import DelayLog
from kworker.kafka.settings import admin_settings
from kworker.kafka.topics import Topics

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks at the topics' ids


class Upkeep:
    """See the module. `renewed`: told of the topics that were made anew; `awaited`: called once when their topic is
    there; in that thread."""

    def __init__(
        self,
        config: Config,
        renewed: Callable[[set[str]], None],
        awaited: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self._config = config
        self._renewed = renewed
        self._awaited = dict(awaited or {})
        self._delay_log = log_of(config.namespace)
        self._work: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        self._met: set[str] = set()

    def start(self) -> None:
        """Begin. It is a daemon: it has nothing to finish."""
        threading.Thread(target=self._run, name="kworker-topics", daemon=True).start()

    def meet(self, topics: Iterable[str]) -> set[str]:
        """These were assigned, by the loop; returns those that are new."""
        new = set(topics) - self._met
        if new:
            self._met |= new
            self._work.put({topic: self._config.dead_letter(topic) for topic in new})
        return new

    def create(self, missing: Mapping[str, str]) -> None:
        """A write found its topic missing: source topic -> dead-letter topic."""
        self._work.put(missing)

    def _run(self) -> None:
        topics = Topics(admin_settings(self._config))
        ids: dict[str, str] = {}
        known: list[str] = []
        while True:
            try:
                pairs = dict(self._work.get(timeout=_LOOK if known or self._awaited else None))
            except queue.Empty:
                pairs = {}
            if self._delay_log in pairs.values():
                pairs = {source: topic for source, topic in pairs.items() if topic != self._delay_log}
                self._make_delay_log()
            for fault in topics.ensure_dead_letters(pairs, create=self._config.create_topics) if pairs else ():
                log.error("%s", fault, extra={"topic": fault.topic})
            known += [topic for topic in pairs if topic not in known]
            for topic, about in topics.describe(list(self._awaited), _LOOK).items():
                if about.partitions:
                    self._awaited.pop(topic)()
            found = topics.identities(known)
            renewed = {topic for topic, id in found.items() if ids.get(topic, id) != id}
            ids |= found
            if renewed:
                self._renewed(renewed)

    def _make_delay_log(self) -> None:
        try:
            delay_log = DelayLog(self._config)
            if delay_log.exists():
                return
            why = delay_log.create(self._config.delay_partitions) if self._config.create_topics else ""
        except KafkaException as error:
            why = str(error)
        if why or not self._config.create_topics:
            command = delay_log.create_command(self._config.delay_partitions)
            log.error("the delay log %s is missing, make it with: %s", self._delay_log, why or command)
