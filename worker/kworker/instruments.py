"""What a worker shows of itself: the metrics page, liveness, readiness and the status page.

Reads what the loop, the intake and the executors own, from the admin server's threads, and writes nothing: each number
has one writer, and a page that is a moment old is a good page.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import confluent_kafka

from kworker.bulletin import Bulletin
from kworker.config import Config
from kworker.core.actions import Cleared, Suspected
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.forward import Forward
from kworker.core.partition import Partition
from kworker.executors.base import Executor
from kworker.executors.processes import ProcessExecutor
from kworker.executors.threads import LostSlot, ThreadExecutor
from kworker.health import Liveness
from kworker.kafka.consumer import Intake
from kworker.kafka.producer import ForwardProducer
from kworker.logs import Repeated
from kworker.mailbox import Report
from kworker.metrics import Metrics
from kworker.task import SUCCESS, Outcome, Postponed, Success, TopicPartition
from kworker.version import __version__

_log = logging.getLogger("kworker")
_outcomes = logging.getLogger("kworker.outcomes")
_outcomes.addFilter(Repeated(1.0))  # a storm of failures is one line a second for each task and error, with a count
logging.getLogger("kworker.retries").addFilter(Repeated(60.0))
logging.getLogger("kworker.client").addFilter(Repeated(10.0))  # a broker that is gone is reported hundreds of times

_SHOWN = 300
_INTAKE_LIMIT = 100.0  # resolving start positions may take a minute when the broker is slow to answer
_OTHERS_LIMIT = 60.0  # the producer's thread, and those of executors
_COMMIT_FAILURES = 30
_COMMIT_ANSWER = 600.0  # long: a restart does not bring a broker back that is gone, and the client goes on by itself


class Instruments:
    """Made once for a worker; `observe` is called by the loop, everything else by the admin server."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        intake: Intake,
        producer: ForwardProducer,
        executors: Mapping[str, Executor],
        dropped_lines: Any,
    ) -> None:
        self._config = config
        self._engine = engine
        self._intake = intake
        self._producer = producer
        self._executors = executors
        self._wall = time.time() - time.monotonic()
        self.stopping = False
        self.liveness = Liveness()
        self.metrics = Metrics(engine.routes, config.named_topics)
        self._timings = {
            task: (
                self.metrics.histogram("kworker_task_duration_seconds", task).observe_many,
                self.metrics.histogram("kworker_task_wait_seconds", task).observe_many,
            )
            for task in engine.routes
        }
        self._show(dropped_lines)

    # -- by the loop --------------------------------------------------------------------------------------------

    def observe(self, reports: Iterable[Report]) -> None:
        """Note how long attempts ran, and how long after publishing the first of each started."""
        ran = [report for report in reports if report[2] is SUCCESS or self._has_run(report)]
        names = {report[0].task.name for report in ran}
        if len(names) == 1:
            self._note(names.pop(), ran)
        elif names:
            ran.sort(key=_task_of)
            for name, of_task in groupby(ran, _task_of):
                self._note(name, list(of_task))

    def _has_run(self, report: Report) -> bool:
        """Whether its task was called; says what else there is to say of it."""
        entry, _, outcome, _, _ = report
        if isinstance(outcome, Success):
            return True
        self._narrate_failure(entry, outcome)
        return not isinstance(outcome, Postponed)

    def _note(self, name: str, reports: list[Report]) -> None:
        """Attempts of one task: how long they ran, and waited, in seconds."""
        duration, wait = self._timings[name]
        duration([ended - started for _, _, _, started, ended in reports])
        wall, first = self._wall, [(entry.task.timestamp, at) for entry, _, _, at, _ in reports if entry.attempt == 1]
        wait([at + wall - published / 1000 for published, at in first if published > 0])

    def narrate_forwards(self, forwards: Iterable[Forward]) -> None:
        """Say of each dead letter, when it is first sent, what it is and why."""
        for forward in forwards:
            if forward.verdict is not None and not forward.tries and not forward.level:
                reason, error = forward.verdict.reason, forward.verdict.error
                _outcomes.error(
                    f"dead letter: {forward.entry.task.name} {reason}",
                    extra={
                        **task_fields(forward.entry),
                        "reason": str(reason),
                        "error": error.type,
                        "why": error.message[:_SHOWN],
                        "to": forward.publication.topic,
                    },
                )

    def _narrate_failure(self, entry: Entry, outcome: Outcome) -> None:
        assert not isinstance(outcome, Success)
        error, what = outcome.error, "put off" if isinstance(outcome, Postponed) else "attempt failed"
        _outcomes.warning(
            f"{what}: {entry.task.name} {error.type}",
            extra={**task_fields(entry), "error": error.type, "why": error.message[:_SHOWN], "stack": error.stack},
        )

    def narrate_suspicion(self, found: Suspected) -> None:
        """Say that owners of a partition died, and how its records are run until it is known of which."""
        extra: dict[str, object] = {**found.topic_partition._asdict(), "start": found.start, "end": found.end}
        if found.charged is not None:
            extra |= {"offset": found.charged, "deaths": found.deaths}
        _log.warning(f"the last {found.times} owners died: these offsets run apart from others", extra=extra)

    def narrate_clearance(self, found: Cleared) -> None:
        """Say that nothing of a partition is suspected any more."""
        _log.warning("what may have killed the last owners is done: full speed", extra=found.topic_partition._asdict())

    def expect_life(self, now: float) -> None:
        """From now on all of it must be seen to move."""
        self.liveness.expect("loop", stall_limit(self._config), now)
        self.liveness.expect("intake", _INTAKE_LIMIT + self._config.revoke_timeout, now)
        for name in ("producer", *map(_executor, self._executors)):
            self.liveness.expect(name, _OTHERS_LIMIT, now)

    # -- health -------------------------------------------------------------------------------------------------

    def live(self) -> dict[str, str]:
        """By what must move: why the process should be restarted, or '' when it should not."""
        now, beat, commits = time.monotonic(), self.liveness.beat, self._engine.commits
        beat("intake", self._intake.last_poll)
        beat("producer", self._producer.last_poll)
        for kind, executor in self._executors.items():
            beat(_executor(kind), executor.moved(now))
        checks = self.liveness.checks(now)
        checks["commits"], since = "", commits.unanswered_since
        refused = [one for one in self._partitions() if one.refused >= _COMMIT_FAILURES]
        if refused:
            checks["commits"] = f"commits: {refused[0].refused} of {refused[0].topic_partition} failed in a row"
        elif since is not None and now - since > _COMMIT_ANSWER:
            checks["commits"] = f"commits: no answer for {_COMMIT_ANSWER:.0f} s"
        return checks

    def faults(self) -> list[str]:
        """The reasons in `live`."""
        return [reason for reason in self.live().values() if reason]

    def bulletin(self) -> Bulletin:
        """All there is to tell, at once."""
        return Bulletin(self.ready(), self.faults(), self.status(), self.metrics.snapshot())

    def summary(self) -> str:
        """One line, for a service manager."""
        return (
            f"{'stopping' if self.stopping else 'group ' + self._config.group}: "
            f"{len(self._engine.partitions)} partitions, {self._engine.pressure.unfinished} tasks in flight"
        )

    def ready(self) -> list[str]:
        """Why the worker is not ready for work; empty when it is."""
        reasons = []
        if not self._intake.joined:
            reasons.append("group: not joined yet")
        if self.stopping:
            reasons.append("stopping")
        for partition in self._partitions():
            if partition.failing:
                reasons.append(
                    f"partition {partition.topic_partition} is paused: the broker does not take its dead letters or"
                    f" publications ({len(partition.failing)} waiting); see the log"
                )
            if why := self._unreadable(partition):
                reasons.append(f"partition {partition.topic_partition} cannot be read: {why}")
        return reasons

    def _unreadable(self, partition: Partition) -> str:
        name, reached = partition.topic_partition, partition.tracker.next
        # At the end of the log an error may have passed without a record to show it.
        return self._intake.unreadable.get(name, "") if self._intake.log_ends.get(name, reached + 1) > reached else ""

    # -- the status page ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """What /status shows."""
        now = time.monotonic()
        running = [
            {
                "task": item.entry.task.name,
                "id": item.entry.task.id,
                "attempt": item.entry.attempt,
                "slot": item.slot,
                "seconds": round(now - item.since, 3),
                "topic": item.entry.task.topic,
                "partition": item.entry.task.partition,
                "offset": item.entry.task.offset,
            }
            for executor in self._executors.values()
            for item in executor.running()
        ]
        return {
            "version": __version__,
            "group": self._config.group,
            "topics": list(self._config.topics),
            "bootstrap": self._config.bootstrap,
            "order": self._config.order,
            "pid": os.getpid(),
            "live": self.faults(),
            "ready": self.ready(),
            "assignment": [self._partition_status(partition) for partition in self._partitions()],
            "slots": {
                kind: {"slots": executor.slots, "busy": len(executor.running()), "lost": executor.lost}
                for kind, executor in self._executors.items()
            },
            "children": [child for executor in self._with_children() for child in executor.children()],
            "lost": [_lost_status(one) for executor in self._with_threads() for one in executor.lost_slots(now)],
            "waiting_retries": self._engine.waiting_retries,
            "running": sorted(running, key=lambda item: -float(str(item["seconds"]))),
            "tasks": {name: _task_status(route) for name, route in self._engine.routes.items()},
        }

    def _partition_status(self, partition: Partition) -> dict[str, object]:
        tracker = partition.tracker
        name = partition.topic_partition
        return {
            "topic": name.topic,
            "partition": name.partition,
            "epoch": partition.epoch,
            "committed": partition.committed,
            "next": tracker.next,
            "log_end": self._intake.log_ends.get(name),
            "open": tracker.open_count,
            "finished_above": tracker.finished_count,
            "paused": name in self._engine.pressure.paused,
            "suspect": partition.suspect,
            "deaths": {str(offset): len(times) for offset, times in partition.mark.deaths.items()},
        }

    def _partitions(self) -> list[Partition]:
        return sorted(self._engine.partitions.copy().values(), key=lambda partition: partition.topic_partition)

    # -- metrics ------------------------------------------------------------------------------------------------

    def _show(self, dropped_lines: Any) -> None:
        engine, intake, executors = self._engine, self._intake, self._executors
        routes = [*engine.routes.values(), engine.arrivals.unknown]
        gauge, counted = self.metrics.gauge, self.metrics.counted
        received = engine.arrivals.received
        counted("kworker_tasks_received_total", lambda: {(topic,): n for topic, n in received.copy().items()})
        counted("kworker_tasks_succeeded_total", lambda: {(route.name,): route.succeeded for route in routes})
        counted("kworker_tasks_retried_total", lambda: {(route.name,): route.retried for route in routes})
        counted("kworker_tasks_delayed_total", lambda: {(route.name,): route.delayed for route in routes})
        counted("kworker_tasks_postponed_total", lambda: {(route.name,): route.postponed for route in routes})
        counted(
            "kworker_tasks_failed_total",
            lambda: {(route.name, error): n for route in routes for error, n in route.failed.copy().items()},
        )
        counted(
            "kworker_tasks_dead_lettered_total",
            lambda: {(route.name, why): n for route in routes for why, n in route.dead_lettered.copy().items()},
        )
        counted("kworker_tasks_abandoned_total", lambda: engine.departure.abandoned)
        counted("kworker_late_results_total", lambda: engine.late_results)
        counted("kworker_replies_refused_total", lambda: engine.arrivals.refused_replies)
        counted(
            "kworker_threads_lost_total",
            lambda: sum(executor.lost for kind, executor in executors.items() if kind == "thread"),
        )
        counted("kworker_children_started_total", lambda: sum(one.started for one in self._with_children()))
        counted(
            "kworker_children_killed_total",
            lambda: {(why,): n for one in self._with_children() for why, n in one.killed.copy().items()},
        )
        counted("kworker_rebalances_total", lambda: {(event,): n for event, n in intake.rebalances.items()})
        counted("kworker_commits_total", lambda: {(result,): n for result, n in engine.commits.results.items()})
        counted("kworker_metadata_truncated_total", lambda: engine.commits.truncated)
        counted("kworker_consume_gaps_total", lambda: intake.seeks_back)
        counted("kworker_offset_loss_total", lambda: {(topic,): n for topic, n in intake.offset_loss.copy().items()})
        counted(
            "kworker_forward_failures_total",
            lambda: {(topic,): n for topic, n in engine.forwarding.failures.copy().items()},
        )
        counted("kworker_log_lines_dropped_total", dropped_lines)
        gauge("kworker_tasks_in_flight", lambda: engine.pressure.unfinished)
        gauge("kworker_slots", lambda: {(kind,): executor.slots for kind, executor in executors.items()})
        gauge("kworker_slots_busy", lambda: {(kind,): len(executor.running()) for kind, executor in executors.items()})
        gauge("kworker_consumer_lag", self._lag)
        gauge("kworker_committed_offset", lambda: self._each(lambda partition: partition.committed))
        gauge(
            "kworker_completion_gap",
            lambda: self._each(lambda partition: partition.tracker.finished_count and self._gap(partition)),
        )
        gauge("kworker_oldest_unfinished_seconds", self._oldest)
        counted("kworker_crash_charges_total", lambda: engine.suspicion.charges)
        gauge("kworker_suspect_partitions", lambda: sum(partition.suspect for partition in self._partitions()))
        gauge("kworker_paused_partitions", lambda: len(engine.pressure.paused))
        gauge("kworker_last_poll_timestamp_seconds", lambda: intake.last_poll + self._wall)
        versions = (__version__, platform.python_version(), confluent_kafka.libversion()[0])
        gauge("kworker_build_info", lambda: {versions: 1})
        gauge("kworker_group_info", lambda: {(self._config.group,): 1})

    def _with_children(self) -> list[ProcessExecutor]:
        return [executor for executor in self._executors.values() if isinstance(executor, ProcessExecutor)]

    def _with_threads(self) -> list[ThreadExecutor]:
        return [executor for executor in self._executors.values() if isinstance(executor, ThreadExecutor)]

    def _each(self, read: Any) -> dict[tuple[str, ...], float]:
        values = {}
        for partition in self._partitions():
            value = read(partition)
            if value is not None:
                values[_labels(partition.topic_partition)] = float(value)
        return values

    def _gap(self, partition: Partition) -> int:
        return partition.tracker.highest_finished - (partition.committed or partition.tracker.committable)

    def _lag(self) -> dict[tuple[str, ...], float]:
        ends = self._intake.log_ends
        committed = {partition.topic_partition: partition.committed for partition in self._partitions()}
        return {_labels(name): max(0, end - (committed[name] or 0)) for name, end in ends.items() if name in committed}

    def _oldest(self) -> float:
        now = time.time()
        since = [partition.oldest_since() for partition in self._partitions()]
        return max((now - when for when in since if when is not None), default=0.0)


def _labels(name: TopicPartition) -> tuple[str, ...]:
    return (name.topic, str(name.partition))


def _task_of(report: Report) -> str:
    return report[0].task.name


def _executor(kind: str) -> str:
    return f"{kind} executor"


def _lost_status(one: LostSlot) -> dict[str, object]:
    return {**task_fields(one.entry), "slot": one.slot, "seconds": round(one.seconds, 3), "stack": one.stack}


def stall_limit(config: Config) -> float:
    """Seconds that a worker may stand still: well below what the group allows between two polls."""
    return min(config.stall_timeout, int(config.kafka.get("max.poll.interval.ms", 300_000)) / 2000)


def _task_status(route: Any) -> dict[str, object]:
    return {
        "succeeded": route.succeeded,
        "retried": route.retried,
        "delayed": route.delayed,
        "postponed": route.postponed,
        "failed": route.failed.copy(),
        "dead_lettered": route.dead_lettered.copy(),
    }


def task_fields(entry: Entry) -> dict[str, object]:
    """The fields by which every log line about a task names it."""
    task = entry.task
    return {
        "task": task.name,
        "id": task.id,
        "attempt": entry.attempt,
        "topic": task.topic,
        "partition": task.partition,
        "offset": task.offset,
    }
