"""Delayed tasks, for a client: when they are due, the delay log they wait in, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException

from kworker.config import Config
from kworker.core.delayed import Answer, Delayed, log_of
from kworker.duration import MAXIMUM, seconds
from kworker.errors import DelayError
from kworker.kafka.sender import Sender
from kworker.kafka.settings import consumer_settings
from kworker.schedules.moment import When, moment

if TYPE_CHECKING:
    from kworker.kafka.standings import Standings
    from kworker.timekeeper.browsing import Browser


def due(delay: float | str | None, at: When | None, now: float) -> float | None:
    """When a message is due, in seconds since the epoch; None: at once. Raises ValueError."""
    if delay is not None and at is not None:
        raise ValueError("delay and at are two ways to say when: give one")
    if delay is not None:
        when = now + seconds(delay)
    elif at is None:
        return None
    else:
        when = moment(at)
    if when > now + MAXIMUM:
        raise ValueError(f"{at!r} is more than ten years ahead")
    return when if when > now else None


class Delays:
    """The delay log, as one client sees it; any thread may ask. Every method blocks."""

    def __init__(self, bootstrap: str, kafka: Mapping[str, str], namespace: str, sender: Sender) -> None:
        self.log = log_of(namespace)
        """The topic."""
        self._config = Config(bootstrap=bootstrap, kafka=kafka, namespace=namespace)
        self._sender = sender
        self._lock = Lock()
        self._there = False

    def make_ready(self) -> None:
        """See that there is a delay log: the first who delays a task makes it. Raises DelayError."""
        if self._there:
            return
        from kworker.kafka.delaylog import DelayLog  # late: an admin client, once

        with self._lock, self._one_line():
            if why := DelayLog(self._config).ensure(self._config.delay_partitions, create=True):
                raise DelayError(why)
            self._there = True

    def cancel(self, ids: Sequence[str], timeout: float) -> list[Answer | None]:
        """What became of the requests to cancel these; None: nobody answered in time. Raises DelayError."""
        from kworker.kafka.cancelling import cancel

        self._sender.check()
        keys = [id.encode("utf-8", "surrogatepass") for id in ids]
        settings = consumer_settings(self._config)
        with self._one_line():
            return cancel(self.log, keys, timeout, producer=self._sender.producer, settings=settings)

    def waiting(self, limit: int) -> list[Delayed]:
        """The tasks that are due first. Raises DelayError."""
        with self._one_line(), self.browse() as browser:
            return browser.first(limit)

    def find(self, id: str) -> Delayed | None:
        """The task of this id, if it waits. Raises DelayError."""
        with self._one_line(), self.browse() as browser:
            return browser.find(id.encode("utf-8", "surrogatepass"))

    def schedules(self) -> Standings:
        """The schedules that stand. Raises DelayError."""
        from kworker.kafka.standings import read

        with self._one_line():
            return read(self.log, consumer_settings(self._config))

    def browse(self) -> Browser:
        """All that waits; it is read when the context is entered."""
        from kworker.timekeeper.browsing import Browser

        return Browser(self.log, consumer_settings(self._config))

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            raise DelayError(f"the delay log {self.log!r} cannot be used: {cause.str()}") from error


def verdict(id: str, answer: Answer | None, within: float, log: str) -> str:
    """The answer for who cancelled one task. Raises DelayError when there is none."""
    if answer is None:
        raise DelayError(
            f"no worker answered within {within:g} s whether {id!r} is cancelled: the request stays in {log!r}, and a "
            "worker that comes obeys it if the task still waits then"
        )
    return str(answer)
