"""The timekeeper: the thread that owns partitions of the delay log and hands over what is due.

Workers share the partitions as a consumer group of their own. Owns that Consumer, and for each partition that it holds
a SQLite file and a transactional producer, whose id fences an earlier owner (holding.py). Promises: it begins when
there is a delay log, and costs nothing before; time is compared by the wall clock and waited for by the monotonic one,
so that a clock that is set makes nothing early; a partition that it lost is dropped at once; a broken file is built
again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from kworker.config import Config
from kworker.core.delayed import log_of
from kworker.health import Liveness
from kworker.kafka.delaylog import (
    DelayLog,
    faults,
    keeper_settings,
    loader_settings,
    retention_of,
    writer_settings,
)
from kworker.kafka.settings import admin_settings
from kworker.kafka.topics import Topics
from kworker.kafka.transaction import Failed, Ousted, Transactions
from kworker.metrics import Metrics
from kworker.task import Record
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.holding import Holding
from kworker.timekeeper.keeping import Keeping
from kworker.timekeeper.loader import Order
from kworker.timekeeper.loading import Loading, LoadingFailed
from kworker.timekeeper.reading import Clocks
from kworker.timekeeper.tally import Tally

log = logging.getLogger(__name__)
_client_log = logging.getLogger("kworker.client")

_IDLE, _SOON = 0.5, 0.05  # seconds of one poll at most: when nothing is due, and while something is taken over
_CHUNK, _CHUNKS = 1_000, 5
_MANY = 20_000  # records to read that are not read in this process
# Seconds before a partition is taken over again: for a broker that is not itself; and for a file, or a record.
_AGAIN, _MUCH_LATER = 1.0, 5.0
_LOOK, _COUNT = 2.0, 30.0  # seconds between two looks at what is held, and at how many partitions there are
_SILENCE = 180.0  # it waits for the broker, at most for the calls of a few partitions one after the other


class Timekeeper:
    """See the module. fatal: told why the worker cannot go on."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        liveness: Liveness,
        fatal: Callable[[str], None],
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._tally = Tally(metrics)
        self._liveness = liveness
        self._last_step = 0.0
        self._fatal = fatal
        self._wall, self._steady = wall, steady
        self._holdings: dict[int, Holding] = {}
        self._kept = Keeping()
        self._loadings: dict[int, Loading] = {}
        self._wait = 0.0
        self._next_look = self._next_count = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kworker-timekeeper", daemon=True)

    def start(self) -> None:
        """Begin: there is a delay log. Called once, from any thread."""
        self._liveness.expect("timekeeper", _SILENCE, time.monotonic())
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Leave the group and end; False if that was not done within `timeout` seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def awaits(self) -> dict[str, Callable[[], None]]:
        """The topic that it begins with, and what is to be called when it is there."""
        return {log_of(self._config.namespace): self.start} if self._config.timekeeper else {}

    def clocks(self) -> Clocks:
        """What both clocks show."""
        return Clocks(int(self._wall() * 1000), int(self._steady() * 1000))

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._config.state_dir is not None:
                Path(self._config.state_dir).mkdir(parents=True, exist_ok=True)
            self._log = DelayLog(self._config)
            self._mend()
            self._consumer = Consumer(
                {**keeper_settings(self._config), "logger": _client_log, "error_cb": self._on_error}
            )
            self._consumer.subscribe(
                [self._log.name],
                on_assign=self._told(self._on_assign),
                on_revoke=self._told(self._on_revoke),
                on_lost=self._told(self._on_lost),
            )
            while not self._stopping.is_set():
                self._step()
            self._consumer.close()
        except Exception as error:
            log.debug("timekeeper", exc_info=True)
            self._fatal(f"timekeeper: {type(error).__name__}: {error}")
        finally:
            for partition in list(self._loadings):
                self._end_loading(partition)

    def _mend(self) -> None:
        """See that the topic keeps what waits."""
        try:
            settings = self._log.settings()
            self._kept.retention = retention_of(settings)
            wrong = faults(settings)
            why = self._log.repair(wrong) if wrong and self._config.create_topics else ""
        except (KafkaException, TimeoutError) as error:
            log.warning("the settings of the delay log could not be read: %s", error)
            return
        if wrong and (why or not self._config.create_topics):
            command = why or f"set it with: {self._log.repair_command(wrong)}"
            log.error("the delay log may lose tasks that wait: %s: %s", ", ".join(wrong), command)
        elif wrong:
            log.warning("the delay log could have lost tasks that wait: mended", extra={"set": dict(wrong)})

    def _step(self) -> None:
        self._read()
        soonest = _IDLE
        for holding in list(self._holdings.values()):
            soonest = min(soonest, self._advance(holding))
        self._wait = soonest
        ready = [holding for holding in self._holdings.values() if holding.ready]
        self._tally.partitions = len(ready)
        self._tally.pending = sum(holding.cache.pending for holding in ready)
        now = time.monotonic()
        if now >= self._next_look:
            with suppress(sqlite3.Error):  # who serves the partition meets it too, and tells
                self._look(ready, now)
        self._last_step = now
        self._liveness.beat("timekeeper", now)

    def _read(self) -> None:
        by_partition: dict[int, list[Message]] = {}
        errors: list[Message] = []
        try:
            first = self._consumer.poll(self._wait)
            messages = [] if first is None else [first]
            for _ in range(_CHUNKS if first is not None else 0):
                more = self._consumer.consume(_CHUNK, 0)
                messages += more
                if len(more) < _CHUNK:
                    break
        except Exception:
            log.exception("reading the delay log raised; reading it again from what was read last")
            for holding in self._holdings.values():
                self._assign(holding)
            return
        for message in messages:
            if message.error() is None:
                by_partition.setdefault(message.partition() or 0, []).append(message)
            else:
                errors.append(message)
        for partition, found in by_partition.items():
            if partition in self._holdings:
                holding = self._holdings[partition]
                self._guarded(holding, partial(holding.take, cast("list[Record]", found)))
        for message in errors:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        holding = self._holdings.get(message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:
            if holding is not None:
                holding.reached(message.offset() or 0)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            if holding is not None:
                log.error("the delay log does not have the next offset: it is read anew", extra={"error": error.str()})
                holding.gap = True
        elif error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal(f"timekeeper: {error.str()}")
            self._stopping.set()
        else:
            _client_log.warning(f"delay log: {error.str()}")

    def _advance(self, holding: Holding) -> float:
        """Let it do what it can; returns how many seconds until it can do more."""
        if time.monotonic() < holding.retry_at:
            return _SOON
        more = self._guarded(holding, holding.advance)
        if holding.gap:
            self._rebuild(holding)
            return _SOON
        self._load(holding)
        if more:
            return 0.0
        if not holding.ready:
            return _SOON
        steady = self.clocks().steady
        soon = self._guarded(holding, partial(holding.next_ready, steady))
        return _IDLE if not soon else max(0.0, (soon - steady) / 1000)

    def _load(self, holding: Holding) -> None:
        """A long log is read by a process of its own, one at a time; go on from where that has read to."""
        partition = holding.partition
        loading = self._loadings.get(partition)
        try:
            if loading is not None:
                if (cache := loading.poll()) is None:
                    return
                cache.identity = holding.cache.identity
                holding.cache.close()
                holding.cache = cache
            elif holding.behind <= _MANY:
                return
            else:
                self._consumer.pause([Position(self._log.name, partition)])
                if not self._loadings:
                    order = Order(
                        loader_settings(self._config), self._log.name, partition, self._config.state_dir, *self.clocks()
                    )
                    self._loadings[partition] = Loading(order)
                return
        except (LoadingFailed, OSError, sqlite3.Error) as error:
            named = {"partition": partition}
            log.warning("no process could read the delay log, it is read here: %s", error, extra=named)
        holding.behind = 0
        self._assign(holding)

    def _guarded(self, holding: Holding, act: Callable[[], Any]) -> Any:
        """Do it; when it cannot go on, the partition is taken over again."""
        named = {"partition": holding.partition}
        try:
            return act()
        except Ousted as error:
            log.warning("another worker took this partition of the delay log over: %s", error, extra=named)
            holding.again(_AGAIN)
        except (Failed, KafkaException, TimeoutError) as error:
            log.warning("the delay log cannot be served now, it is tried again: %s", error, extra=named)
            holding.again(_AGAIN)
        except sqlite3.Error as error:
            log.error("what waits could not be kept in a file, it is read anew: %s", error, extra=named)  # noqa: TRY400 - one line for the user; the trace says nothing more
            holding.gap = True
            holding.again(_MUCH_LATER)
        except Exception:  # whatever a record has brought about: other partitions, and the worker's tasks, go on
            log.exception("this partition of the delay log cannot be served, it is read anew", extra=named)
            holding.gap = True
            holding.again(_MUCH_LATER)
        return False

    def _look(self, ready: Sequence[Holding], now: float) -> None:
        """Count what is shown, and forget what need not be known any more."""
        self._next_look = now + _LOOK
        self._kept.expire(now)
        clocks = self.clocks()
        self._tally.overdue = sum(holding.cache.overdue(clocks.steady, clocks.wall) for holding in ready)
        rosters = [holding.cache.schedules for holding in ready]
        self._tally.schedules = sum(roster.count for roster in rosters)
        self._tally.schedule_overdue = max((roster.overdue(*clocks) for roster in rosters), default=0.0)
        self._tally.schedules_newer = sum(holding.look() for holding in ready)
        if now >= self._next_count:
            self._next_count = now + _COUNT
            with suppress(KafkaException):  # the broker is away: what was seen last stays
                about = self._consumer.list_topics(self._log.name, timeout=1.0).topics[self._log.name]
                self._tally.log_partitions = len(about.partitions) or self._tally.log_partitions

    # -- what is owned ------------------------------------------------------------------------------------------

    def _told(self, callback: Callable[[Consumer, list[Position]], None]) -> Callable[[Consumer, list[Position]], None]:
        """A callback that never raises: inside of a poll that would lose records."""

        def told(consumer: Consumer, partitions: list[Position]) -> None:
            try:
                callback(consumer, partitions)
            except Exception as error:
                log.debug("callback", exc_info=True)
                self._fatal(f"timekeeper: {type(error).__name__}: {error}")
                self._stopping.set()

        return told

    def _on_assign(self, consumer: Consumer, partitions: list[Position]) -> None:
        for position in partitions:
            self._hold(position.partition)
            self._assign(self._holdings[position.partition], fresh=True)
        log.info("delay log assigned", extra={"partitions": sorted(position.partition for position in partitions)})

    def _on_revoke(self, consumer: Consumer, partitions: list[Position]) -> None:
        for position in partitions:
            self._give_up(position.partition)

    def _on_lost(self, consumer: Consumer, partitions: list[Position]) -> None:
        for position in partitions:
            self._give_up(position.partition)
        log.warning("partitions of the delay log were given away while this worker was not heard")

    def _hold(self, partition: int) -> None:
        cache = self._kept.take(partition, time.monotonic(), self.clocks().distance)
        cache, gap = (cache, False) if cache is not None else self._empty()
        holding = self._holdings[partition] = Holding(
            self._log.name,
            partition,
            cache,
            clocks=self.clocks,
            writer=lambda: Transactions(writer_settings(self._config), f"{self._log.name}-{partition}"),
            place=lambda: self._log.place(partition),
            letters=self._letters,
            tally=self._tally,
        )
        holding.gap = gap

    def _give_up(self, partition: int) -> None:
        holding = self._holdings.pop(partition, None)
        if holding is None:
            return
        self._end_loading(partition)
        holding.close()
        if holding.cache.settled and not holding.gap:
            # Since the last step, not since now: it may have been frozen for long.
            self._kept.put(partition, holding.cache, self._last_step, holding.distance)
        else:
            holding.cache.close()

    def _assign(self, holding: Holding, *, fresh: bool = False) -> None:
        """Read its partition from where its cache stands."""
        place = Position(self._log.name, holding.partition, holding.cache.position or OFFSET_BEGINNING)
        if not fresh:
            self._end_loading(holding.partition)
            self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._consumer.resume([place])

    def _end_loading(self, partition: int) -> None:
        if (loading := self._loadings.pop(partition, None)) is not None:
            loading.close()

    def _rebuild(self, holding: Holding) -> None:
        """Throw away what was read, and read the log from its start."""
        holding.cache.close()
        holding.cache, holding.gap = self._empty()
        holding.again(_MUCH_LATER if holding.gap else _SOON)
        self._assign(holding)

    def _empty(self) -> tuple[Cache, bool]:
        """An empty cache, and whether it must be built again, since it only stands for one that has no file now."""
        try:
            return Cache(self._config.state_dir), False
        except (sqlite3.Error, OSError) as error:
            log.error("there is no file for what waits, it is tried again: %s", error)  # noqa: TRY400 - as above
            return Cache(file=sqlite3.connect(":memory:")), True

    def _letters(self, writer: Transactions) -> str:
        """See that the topic of dead letters is there; returns why it is not."""
        name = f"{self._log.name}.dlq"
        if not writer.missing(name):
            return ""
        topics = Topics(admin_settings(self._config))
        found = topics.ensure_dead_letters({self._log.name: name}, create=self._config.create_topics)
        return "; ".join(map(str, found))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal(f"timekeeper: {error.str()}")
        else:
            _client_log.warning(f"delay log: {error.str()}")
