"""What a worker does for the topics it reads, in a thread of its own: the admin client's calls may take their time.

Owns the thread kworker-topics. Promises: a topic that is met gets its dead-letter topic; one that was deleted and made
anew under the worker is noticed within two looks, and read from its beginning. The consumer would not notice: it goes
on at its old offset, and what lies below in the new log would be lost silently. When a retry is to wait in the delay
log, that is made, and then the topic where the group's retries come back: if this one is there, both are.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException

from kworker.config import Config
from kworker.core.delayed import log_of, retry_topic
from kworker.kafka.delaylog import DelayLog
from kworker.kafka.settings import admin_settings
from kworker.kafka.topics import Topics

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks at the topics' ids


class Upkeep:
    """See the module. `renewed`: told of the topics that were made anew; `awaited`: called once when their topic is
    there; `retries`: when the retry topic is there, and each time that it was asked for; in that thread."""

    def __init__(
        self,
        config: Config,
        renewed: Callable[[set[str]], None],
        awaited: Mapping[str, Callable[[], None]] | None = None,
        retries: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._renewed = renewed
        self._delay_log = log_of(config.namespace)
        self._retry_topic = retry_topic(config.namespace, config.group)
        self._retries = retries
        self._awaited = {**(awaited or {}), self._retry_topic: retries}
        self._told = ""
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
            # Nothing but kworker writes to the retry topic: one for its dead letters is made when there is one.
            self._work.put(
                {topic: topic if topic == self._retry_topic else self._config.dead_letter(topic) for topic in new}
            )
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
            known += [source for source in pairs if source not in known and pairs[source] != self._delay_log]
            try:
                self._turn(topics, pairs, known, ids)
            except Exception:  # what was asked for is asked for again, by the next write that finds it missing
                log.exception("looking after topics raised; going on")

    def _turn(self, topics: Topics, pairs: dict[str, str], known: list[str], ids: dict[str, str]) -> None:
        if self._delay_log in pairs.values():
            pairs = {source: topic for source, topic in pairs.items() if topic != self._delay_log}
            self._make_delay_log(topics)
        for fault in topics.ensure_dead_letters(pairs, create=self._config.create_topics) if pairs else ():
            log.error("%s", fault, extra={"topic": fault.topic})
        for topic, about in topics.describe(list(self._awaited), _LOOK).items():
            if about.partitions:
                self._awaited.pop(topic)()
        found = topics.identities(known)
        renewed = {topic for topic, id in found.items() if ids.get(topic, id) != id}
        ids |= found
        if renewed:
            self._renewed(renewed)

    def _make_delay_log(self, topics: Topics) -> None:
        there = topics.describe([self._delay_log, self._retry_topic])
        why = next((about.error for about in there.values() if about.error), "")
        missing = [name for name, about in there.items() if not about.partitions]
        if topics.imitated:
            why = "the embedded broker has none"
        elif missing and not why:
            why = self._make(missing)
        if not why:
            self._awaited[self._retry_topic] = self._retries
        elif why != self._told:
            log.warning("long retries wait in memory, not in the delay log: %s", why)
        self._told = why

    def _make(self, missing: list[str]) -> str:
        """Make the delay log and the retry topic, those of them that are missing; returns why that was not done."""
        partitions = self._config.delay_partitions
        try:
            delay_log = DelayLog(self._config)
            # Order: the log first, since the other one says that it is there.
            makes = {
                delay_log.name: (delay_log.create, delay_log.create_command),
                delay_log.retries: (delay_log.create_retries, delay_log.retries_command),
            }
            if not self._config.create_topics:
                return "; ".join(f"{name} is missing, make it with: {makes[name][1](partitions)}" for name in missing)
            return next((why for name in missing if (why := makes[name][0](partitions))), "")
        except KafkaException as error:
            return str(error)
