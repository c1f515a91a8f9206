"""The worker: one loop that takes events from the mailbox, asks the engine, and performs what it answers.

Owns the loop, its threads and their order of start and stop. Every step of a stop has a deadline, and nothing of a
plugin's runs in the loop or in the intake thread.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import signal
import threading
import time
from types import FrameType

from kworker.config import Config
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.delayed import retry_topic
from kworker.core.engine import Engine
from kworker.core.metadata import Alphabet
from kworker.executors.build import build
from kworker.health import AdminServer
from kworker.instruments import Instruments, stall_limit, task_fields
from kworker.kafka.consumer import Intake
from kworker.kafka.producer import ForwardProducer
from kworker.kafka.settings import consumer_settings, producer_settings
from kworker.leaving import end_executors, leave
from kworker.loading import engine_settings, executors, in_children, load
from kworker.logs import dropped
from kworker.mailbox import Command, Mailbox
from kworker.preparation import Interrupted, Preparation
from kworker.process.guard import Sentinel
from kworker.process.notify import Notifier
from kworker.registry import Registry
from kworker.scheduling import Scheduling
from kworker.timekeeper.timekeeper import Timekeeper
from kworker.upkeep import Upkeep
from kworker.watchdog import Guard, Watchdog, end, stacks

log = logging.getLogger("kworker")

EXIT_OK, EXIT_FATAL, EXIT_UNFINISHED, EXIT_WATCHDOG = 0, 3, 4, 6

_WATCH, _IDLE_WATCH = 0.1, 1.0  # seconds between two looks at deadlines while something runs, and else
_CLOSE = 8.0  # to commit, leave the group and tear plugins down, after the drain
_CLOSE_NOW = 0.8
_HERE = ("thread", "coroutine")  # the executors whose tasks run in this process


def run_worker(config: Config, supervisor: Guard | None = None) -> int:
    """Run a worker in the foreground until a signal or a fault ends it; returns its exit code.

    supervisor: who watches it and shows its pages. Raises ConfigError (2) or PluginError (5) when it cannot start.
    """
    # A worker inside a test or another program gets no signals: its owner calls stop().
    signals = threading.current_thread() is threading.main_thread()
    limit = stall_limit(config)
    watchdog = Watchdog(limit, supervisor or Sentinel(limit))
    watchdog.start()
    try:
        preparation = Preparation(config.setup_timeout)
        watchdog.watch(preparation.look, preparation.bulletin)
        if signals:
            preparation.take_signals()
        registry = load(config, executors(config), telling=preparation.begin)
        if not registry.tasks:
            log.warning(
                "no plugin offers a task: each record will be a dead letter `unroutable`; see `kworker plugins`"
            )
        worker = Worker(config, registry, alone=supervisor is None)
        worker.set_up(preparation, signals=signals)
        watchdog.watch(worker.look, worker.bulletin)
        return worker.run()
    except Interrupted:
        log.info("stopped while plugins were set up: nothing was taken", extra={"code": EXIT_OK})
        return EXIT_OK
    finally:
        watchdog.stop()


class Worker:
    """One worker process. See the module."""

    def __init__(self, config: Config, registry: Registry, *, alone: bool = True) -> None:
        self._config = config
        self._registry = registry
        self._mailbox = Mailbox()
        self._executors = build(config, registry.tasks, self._mailbox, in_children(config))
        self._engine = Engine(
            engine_settings(config, {kind: executor.capacity for kind, executor in self._executors.items()}),
            {name: task.route() for name, task in registry.tasks.items()},
            random.random,
        )
        self._producer = ForwardProducer(producer_settings(config), self._mailbox.post, self._fatal)
        self._intake = Intake(
            consumer_settings(config),
            config.topics,
            post=self._mailbox.post,
            room=self,
            fatal=self._fatal,
            probed=self._probed,
            start_from=config.start_from,
            revoke_timeout=config.revoke_timeout,
            retries=retry_topic(config.namespace, config.group),
        )
        self._instruments = Instruments(config, self._engine, self._intake, self._producer, self._executors, dropped)
        self.bulletin = self._instruments.bulletin
        """All there is to tell of it."""
        self._admin = self._pages() if alone else None
        self._notifier = Notifier(os.environ)
        self._idle_watch = min(_IDLE_WATCH, self._notifier.interval or _IDLE_WATCH)
        self._timekeeper = Timekeeper(config, self._instruments.metrics, self._instruments.liveness, self._fatal)
        self._scheduling = Scheduling(config, registry.plugins)
        self._upkeep = Upkeep(config, self._intake.begin_again, self._timekeeper.awaits, self._read_retries)
        self._taken_records = 0
        self._taken_bytes = 0
        self._next_watch = 0.0
        self._looked = math.inf
        self._foreign_told = 0
        self._stops = 0
        self._code_when_drained = EXIT_OK
        self._code: int | None = None
        self._final_commit: list[do.CommitItem] = []
        self._performers = {
            do.Start: self._start,
            do.Send: self._send,
            do.Commit: lambda action: self._intake.commit(action.items, urgent=action.urgent),
            do.Pause: lambda action: self._intake.pause(action.partitions),
            do.Resume: lambda action: self._intake.resume(action.partitions),
            do.SeekBack: lambda action: self._intake.seek_back(action.positions),
            do.Released: lambda action: self._intake.release(action.commit),
            do.CreateTopics: lambda action: self._upkeep.create(dict(action.missing)),
            do.Withdraw: self._withdraw,
            do.Cancel: self._cancel,
            do.Suspected: self._instruments.narrate_suspicion,
            do.Cleared: self._instruments.narrate_clearance,
            do.Drained: self._drained,
        }

    def set_up(self, preparation: Preparation, *, signals: bool) -> None:
        """Open the admin port and set the plugins up, before the group is joined: one that cannot be disturbs nobody.

        signals: take them over when it is done. Raises PluginError.
        """
        if self._admin is not None:
            self._admin.start()
            address = f"http://{self._config.admin_host}:{self._admin.port}/metrics"
            log.info("admin port open", extra={"metrics": address, "pid": os.getpid()})
        self._registry.setup(_HERE, preparation.begin)
        try:
            for kind, executor in self._executors.items():
                preparation.begin(f"start of the {kind} executor, with the plugins' setup in it")
                executor.start()
            if signals:
                self._take_signals()
        except BaseException:  # an interrupt, too
            end_executors(self._executors.values(), 0.0)
            self._registry.teardown()
            raise
        if preparation.quiet:
            self._mailbox.post(self._go_quiet)

    def run(self) -> int:
        """Start everything, loop until the end is decided, stop everything; returns the exit code."""
        # What is there now stays: the collector need not look at it again. Records and tasks hold no cycles, so it may
        # look at the young ones less often, which is a third of the loop's time otherwise.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._upkeep.start()
        self._scheduling.start()
        self._producer.start()
        self._intake.start()
        self._looked = time.monotonic()  # a freeze may come before the first look
        self._instruments.expect_life(self._looked)
        code = self._loop()
        self._scheduling.stop()
        self._timekeeper.stop(_CLOSE_NOW / 8 if self._stops > 1 else 1.0)
        # It has its own deadline: a signal that comes now must not cut the last commit off.
        leave(
            self._intake,
            self._final_commit,
            self._producer,
            self._executors.values(),
            self._registry,
            _CLOSE_NOW if self._stops > 1 else _CLOSE,
        )
        if self._admin is not None:
            self._admin.stop(0.5)
        if self._intake.uncommitted:
            log.warning("some of what was done is not committed and will run again elsewhere")
            code = code or EXIT_UNFINISHED
        log.info("stopped", extra={"code": code})
        return code

    def look(self, ran: float) -> None:
        """By the watchdog: end the process when something has stopped moving; its supervisor restarts it."""
        now = time.monotonic()
        if now - self._looked - ran > stall_limit(self._config) / 2:  # this process was frozen
            self._instruments.liveness.renew(now)
        self._looked = now
        reasons = self._instruments.faults()
        if reasons and self._code is None:
            end(EXIT_WATCHDOG, "; ".join(reasons))

    def _pages(self) -> AdminServer:
        return AdminServer(
            self._config.admin_host,
            self._config.admin_port,
            explicit=self._config.admin_port_explicit,
            metrics=self._instruments.metrics.page,
            live=self._instruments.live,
            ready=self._instruments.ready,
            status=self._instruments.status,
        )

    # -- the loop -----------------------------------------------------------------------------------------------

    def _loop(self) -> int:
        mailbox, engine, clock = self._mailbox, self._engine, time.monotonic
        while self._code is None:
            now = clock()
            for event in mailbox.take(min(engine.next_due, self._next_watch) - now):
                self._take(event)
                if self._code is not None:  # what else came is the next owner's: a revoke is answered by the close
                    return self._code
            now = clock()
            self._instruments.liveness.beat("loop", now)
            if now >= engine.next_due:
                self._perform(engine.handle(on.Tick(), now))
            if now >= self._next_watch:
                self._watch(now)
        return self._code

    def _take(self, event: on.Event | Command) -> None:
        if callable(event):
            event()
            return
        if event.__class__ is on.Finished:
            assert isinstance(event, on.Finished)
            self._instruments.observe(event.reports)
        elif event.__class__ is on.Polled:
            assert isinstance(event, on.Polled)
            self._taken_records += len(event.records)
            self._taken_bytes += event.size
        elif event.__class__ is on.Assigned:
            assert isinstance(event, on.Assigned)
            for topic in self._upkeep.meet(given.topic_partition.topic for given in event.partitions):
                self._instruments.metrics.know_topic(topic)
        self._perform(self._engine.handle(event, time.monotonic()))
        if self._engine.foreign_metadata > self._foreign_told:
            self._foreign_told = self._engine.foreign_metadata
            log.warning("commit metadata that kworker did not write for its offset: nothing is restored from it")

    def _perform(self, actions: list[do.Action]) -> None:
        performers = self._performers
        for action in actions:
            performers[type(action)](action)  # type: ignore[operator]  # mypy cannot pair a type with its performer

    def _start(self, action: do.Start) -> None:
        self._executors[action.executor].submit(action.entries)

    def _send(self, action: do.Send) -> None:
        self._instruments.narrate_forwards(action.forwards)
        self._producer.send(action.forwards)

    def _withdraw(self, action: do.Withdraw) -> None:
        entries = [entry for executor in self._executors.values() for entry in executor.withdraw()]
        self._perform(self._engine.handle(on.Withdrawn(entries), time.monotonic()))

    def _cancel(self, action: do.Cancel) -> None:
        for executor in self._executors.values():
            executor.cancel(action.partitions)

    def _watch(self, now: float) -> None:
        busy = self._engine.pressure.unfinished > 0
        self._next_watch = now + (_WATCH if busy else self._idle_watch)
        lost = 0
        for executor in self._executors.values():
            executor.watch(now)
            lost += executor.lost
        if lost > self._config.lost_slots and self._stops == 0:
            log.error("too many slots are lost to tasks that hang: ending, for a restart", extra={"lost": lost})
            self._stop(EXIT_WATCHDOG)
        if self._intake.joined:
            self._notifier.ready()
        self._notifier.beat(now, lambda: not self._instruments.faults())
        self._notifier.status(self._instruments.summary())

    # -- room for the intake: read by its thread, written by the loop --------------------------------------------

    def records(self) -> int:
        """How many more records the loop can take, those on their way to it subtracted."""
        return self._engine.room - (self._intake.posted_records - self._taken_records)

    def bytes(self) -> int:
        """How many more bytes the loop can take."""
        return self._engine.pressure.room_bytes - (self._intake.posted_bytes - self._taken_bytes)

    def _probed(self, alphabet: Alphabet | None) -> None:
        self._mailbox.post(lambda: self._engine.set_alphabet(alphabet))

    def _read_retries(self) -> None:
        self._intake.read_retries()
        self._mailbox.post(on.LogReady(time.time()))

    # -- signals and ends ---------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        actions: dict[int, Command] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._stop_once,
            signal.SIGQUIT: self._stop_now,
            signal.SIGUSR1: self._go_quiet,
            signal.SIGUSR2: self._dump,
        }

        def post(number: int, frame: FrameType | None) -> None:
            self._mailbox.post(actions[number])

        for number in actions:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
                signal.signal(number, post)

    def stop(self) -> None:
        """Ask for a stop, as SIGTERM does; safe from any thread."""
        self._mailbox.post(self._stop)

    def _go_quiet(self) -> None:
        log.info("quiet: no more records are taken; what is here runs, and the partitions stay here")
        self._perform(self._engine.handle(on.Quiet(), time.monotonic()))

    def _stop(self, code: int = EXIT_OK) -> None:
        self._stops += 1
        if self._stops > 1:
            self._stop_now()
            return
        self._code_when_drained = code
        self._instruments.stopping = True
        self._notifier.stopping()
        log.info(
            "stopping: no more records are taken; what runs may finish", extra={"within": self._config.drain_timeout}
        )
        now = time.monotonic()
        self._perform(self._engine.handle(on.StopRequested(now + self._config.drain_timeout), now))

    def _stop_once(self) -> None:
        if self._stops == 0:
            self._stop()

    def _stop_now(self) -> None:
        self._stops += 2
        self._code_when_drained = EXIT_UNFINISHED
        self._instruments.stopping = True
        self._notifier.stopping()
        now = time.monotonic()
        self._perform(self._engine.handle(on.StopRequested(now), now))

    def _drained(self, action: do.Drained) -> None:
        if action.unfinished:
            log.warning("the stop's deadline passed", extra={"unfinished": action.unfinished})
        self._final_commit = action.commit
        self._code = self._code_when_drained or (EXIT_UNFINISHED if action.unfinished else EXIT_OK)

    def _fatal(self, why: str) -> None:
        """A client cannot go on: end now. Nothing is committed, so what is unfinished runs again elsewhere."""
        self._instruments.stopping = True  # not ready from now on, not from when the loop hears of it

        def end() -> None:
            log.critical("fatal: %s", why)
            self._final_commit = []
            self._stops += 2
            self._code = EXIT_FATAL

        self._mailbox.post(end)

    def _dump(self) -> None:
        """SIGUSR2: every running task, where it is, and the stack of every thread, to the log."""
        for executor in self._executors.values():
            for slot, stack in executor.stacks().items():
                log.info("stack of %s", slot, extra={"stack": stack})
            for item in executor.running():
                seconds = round(time.monotonic() - item.since, 3)
                log.info("running", extra={**task_fields(item.entry), "slot": item.slot, "seconds": seconds})
        for name, stack in stacks().items():
            log.info("stack of %s", name, extra={"stack": stack})
