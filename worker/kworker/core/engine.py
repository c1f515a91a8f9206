"""The engine: events in, actions out. The only mutable state of a worker, owned by one thread, with time as an
argument: no locks, no sleeps, nothing that a Hypothesis state machine cannot drive.

`handle(event, now)` returns what to do, in order. `now` is a monotonic clock's reading; wall time comes with events.

    Assigned, Polled, EndReached        the log        -> Start, Send, Pause, Resume
    Finished                            the executors  -> Start, Send
    Forwarded, Committed                the broker     -> Send, CreateTopics
    Revoked, Withdrawn                  the group      -> Withdraw, Cancel, Released
    Tick                                time           -> Start, Send, Commit
    Quiet, StopRequested                the operator   -> Withdraw, Cancel, Drained
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import count

from msgspec import structs

from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.actions import Action
from kworker.core.commits import Commits
from kworker.core.deadletter import SUFFIX
from kworker.core.departure import Departure
from kworker.core.entry import Entry
from kworker.core.forward import Verdict
from kworker.core.forwarding import Forwarding
from kworker.core.metadata import Alphabet, Intervals, decode
from kworker.core.partition import Partition
from kworker.core.pressure import Pressure
from kworker.core.ready import ReadyQueue
from kworker.core.retry import Dead, RetryPolicy
from kworker.core.route import Route
from kworker.core.settings import EngineSettings, TopicRules
from kworker.core.wire import UNKNOWN, bare
from kworker.core.wire import decode as decode_envelope
from kworker.errors import DecodeError
from kworker.task import SUCCESS, ErrorInfo, Outcome, Record, Success, TopicPartition

_NOTHING = Intervals()


class Engine:
    """Decides everything about the records of the assigned partitions, from their delivery to their commit."""

    def __init__(self, settings: EngineSettings, routes: Mapping[str, Route], jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self.unknown = Route(UNKNOWN, "", RetryPolicy())
        self._ready = ReadyQueue(settings.order, settings.slots)
        self._free = dict(settings.slots)
        self._retries: list[tuple[float, int, Entry]] = []
        self._sequence = count()
        self._epochs = count(1)
        self._shrunk: set[Partition] = set()  # crowded partitions of which something finished in this event
        self._at = 0.0  # wall time of the latest event that brought one
        self.commits = Commits(settings.commit_interval, settings.alphabet)
        self.routes = dict(routes)
        self.partitions: dict[TopicPartition, Partition] = {}
        self.forwarding = Forwarding(settings.group, settings.worker)
        self.departure = Departure()
        self.pressure = Pressure(settings.most_records, settings.most_bytes, settings.alphabet)
        self.received: dict[str, int] = {}
        """Records by topic."""
        self.late_results = 0
        """Reports that came after the attempt was no longer ours to decide."""
        self.foreign_metadata = 0
        """Assignments whose commit metadata was not written by kworker for that offset."""
        self.refused_replies = 0
        """Messages that asked for their result to go to a topic that is not allowed: no result is sent there."""
        self.quiet = False
        self._reactions: dict[type, Callable[..., None]] = {
            on.Polled: self._polled,
            on.Finished: self._finished,
            on.Forwarded: self._forwarded,
            on.Tick: self._tick,
            on.EndReached: self._end_reached,
            on.FetchFailed: self._fetch_failed,
            on.Committed: self._committed,
            on.Assigned: self._assigned,
            on.Revoked: self._revoked,
            on.Withdrawn: self._withdrawn,
            on.Quiet: self._go_quiet,
            on.StopRequested: self._stop_requested,
        }

    def set_alphabet(self, alphabet: Alphabet | None) -> None:
        """Choose how commit metadata is written: called once, after the broker was probed."""
        self.commits.alphabet = alphabet
        self.pressure.set_alphabet(alphabet)

    def handle(self, event: on.Event, now: float) -> list[Action]:
        """Take one event; returns what to do, in this order. `now`: monotonic seconds."""
        actions: list[Action] = []
        self._reactions[type(event)](event, now, actions)
        if self._shrunk:
            for partition in self._shrunk:
                self.pressure.shrunk(partition, len(self.partitions), actions)
            self._shrunk.clear()
        self._start(actions)
        outgoing, missing = self.forwarding.take()
        if missing:
            actions.append(do.CreateTopics(missing))
        if outgoing:
            actions.append(do.Send(outgoing))
        if self.departure.pending:
            self._settle(now, actions)
        return actions

    @property
    def room(self) -> int:
        """How many more records may be fetched now; never below 0."""
        return 0 if self.quiet else self.pressure.room

    @property
    def next_due(self) -> float:
        """When to send the next Tick at the latest (engine time)."""
        due = self.commits.due
        if self._retries:
            due = min(due, self._retries[0][0])
        for other in (self.forwarding.due, self.departure.due):
            if other is not None:
                due = min(due, other)
        return due

    @property
    def waiting_retries(self) -> int:
        """Tasks that wait in memory for their next attempt."""
        return len(self._retries)

    # -- the log ------------------------------------------------------------------------------------------------

    def _assigned(self, event: on.Assigned, now: float, actions: list[Action]) -> None:
        resumed = []
        for given in event.partitions:
            topic_partition = given.topic_partition
            if topic_partition in self.partitions:
                self._fence([self.partitions[topic_partition]], actions)
            restored = decode(given.metadata, given.start) if given.committed == given.start else _NOTHING
            if restored is None:
                self.foreign_metadata += 1
            rules = self._settings.topics.get(topic_partition.topic, TopicRules())
            partition = Partition(
                topic_partition,
                next(self._epochs),
                given.start,
                restored or _NOTHING,
                rules.task,
                rules.dead_letter or topic_partition.topic + SUFFIX,
            )
            partition.committed = given.committed
            if given.committed != given.start:
                partition.changes = 1  # the start position itself is committed: a group that starts at the end must
            self.partitions[topic_partition] = partition  # not lose what comes before its first finished task
            if self.departure.stopping:
                partition.leaving = True
            if topic_partition in self.pressure.paused:  # a pause outlives its assignment in librdkafka
                self.pressure.paused.discard(topic_partition)
                resumed.append(topic_partition)
        if resumed:
            actions.append(do.Resume(resumed))

    def _polled(self, event: on.Polled, now: float, actions: list[Action]) -> None:
        self._at = event.at
        touched: set[Partition] = set()
        for name, run in event.runs():
            partition = self.partitions.get(name)
            if partition is not None and not partition.leaving:
                touched.add(partition)
                self._open(partition, run)
        for partition in touched:
            self.pressure.grown(partition, len(self.partitions), actions)

    def _open(self, partition: Partition, run: list[Record]) -> None:
        """Records of one partition, in log order, become open; the work is done once a run where it can be."""
        tracker, seen = partition.tracker, self._at
        if run[0].offset() < tracker.next:  # delivered again after a seek back: open or finished already
            run = [record for record in run if record.offset() >= tracker.next]
            if not run:
                return
        offsets = [record.offset() for record in run]
        partition.marks.append((offsets[0], seen))
        tracker.open_all(offsets)
        topic = partition.topic_partition.topic
        self.received[topic] = self.received.get(topic, 0) + len(run)
        if partition.restored:
            run = self._restore(partition, run)
        routes, default = self.routes, partition.default_task
        entries, refused, size = [], [], 0
        for record in run:
            task = decode_envelope(record, routes, default)
            if isinstance(task, DecodeError):
                refused.append((Entry(bare(record, task), partition, self.unknown, seen), task))
                size += refused[-1][0].task.size
            else:
                if task.reply_to is not None and task.reply_to not in self._settings.reply_topics:
                    self.refused_replies += 1
                    task = structs.replace(task, reply_to=None)
                entries.append(Entry(task, partition, routes[task.name], seen))
                size += task.size
        self.pressure.add(partition, len(run), size)
        self._ready.arrive_all(entries)
        for entry, error in refused:
            self._set_aside(entry, Verdict(error.reason, ErrorInfo(error.code, str(error))))

    def _restore(self, partition: Partition, run: list[Record]) -> list[Record]:
        """Finish what an earlier owner finished, as its commit metadata said; returns what is left to run."""
        restored = partition.restored
        left = []
        for record in run:
            if record.offset() in restored:
                partition.tracker.finish(record.offset())
                partition.changes += 1
            else:
                left.append(record)
        if run[-1].offset() >= restored.end:
            partition.restored = _NOTHING
        return left

    def _end_reached(self, event: on.EndReached, now: float, actions: list[Action]) -> None:
        partition = self.partitions.get(event.topic_partition)
        # Records that come for a leaving partition are dropped: its end would count them as worked, and lose them.
        if partition is not None and not partition.leaving and partition.tracker.end_reached(event.offset):
            partition.changes += 1

    def _fetch_failed(self, event: on.FetchFailed, now: float, actions: list[Action]) -> None:
        live = [partition for partition in self.partitions.values() if not partition.leaving]
        actions.append(do.SeekBack([(partition.topic_partition, partition.tracker.next) for partition in live]))

    # -- the executors ------------------------------------------------------------------------------------------

    def _start(self, actions: list[Action]) -> None:
        for executor, free in self._free.items():
            if free <= 0 or not self._ready.waiting(executor):
                continue
            entries = self._ready.take(executor, free)
            for entry in entries:
                entry.run += 1
                entry.partition.running += 1
            if entries:
                self._free[executor] = free - len(entries)
                actions.append(do.Start(executor, entries))

    def _finished(self, event: on.Finished, now: float, actions: list[Action]) -> None:
        self._at = event.at
        release_limit = self._ready.release_limit
        for entry, run, outcome, _started, _ended in event.reports:
            if entry.run != run:
                self.late_results += 1
                continue
            entry.run = run + 1
            route, partition = entry.route, entry.partition
            self._free[route.executor] += 1
            partition.running -= 1
            if route.limit is not None:
                release_limit(entry)
            if partition.fenced:
                self.late_results += 1
            elif outcome is SUCCESS:
                route.succeeded += 1
                self._complete(entry)
            elif isinstance(outcome, Success):
                route.succeeded += 1
                if outcome.publish:
                    self.forwarding.publish(entry, outcome.publish)
                else:
                    self._complete(entry)
            else:
                self._decide(entry, outcome, now)

    def _decide(self, entry: Entry, outcome: Outcome, now: float) -> None:
        route = entry.route
        route.count_failure(outcome)
        decision = route.policy.decide(outcome, entry.attempt, self._at - entry.seen, self._jitter())
        if isinstance(decision, Dead):
            self._set_aside(entry, Verdict(decision.reason, decision.error))
        else:
            # The offset stays open and the lane blocked while it waits, so order survives a restart for free.
            route.retried += decision.counts
            entry.attempt += decision.counts
            heapq.heappush(self._retries, (now + decision.wait, next(self._sequence), entry))

    def _set_aside(self, entry: Entry, verdict: Verdict) -> None:
        self.forwarding.set_aside(entry, verdict, self._at)

    def _complete(self, entry: Entry) -> None:
        """The effect of this entry is acknowledged: its offset is finished and its lane goes on."""
        partition = entry.partition
        partition.tracker.finish(entry.task.offset)
        partition.changes += 1
        self.pressure.remove(partition, entry.task.size)
        if entry.lane is not None and not partition.leaving:
            self._ready.release_lane(entry)
        if partition.crowded:
            self._shrunk.add(partition)

    # -- the broker ---------------------------------------------------------------------------------------------

    def _forwarded(self, event: on.Forwarded, now: float, actions: list[Action]) -> None:
        for forward, refusal in event.results:
            entry = forward.entry
            partition = entry.partition
            failing = bool(partition.failing)
            if refusal is None:
                if self.forwarding.acknowledged(forward) and not partition.fenced:
                    self._complete(entry)
            elif not partition.fenced:
                self.forwarding.refused(forward, refusal, now, self._at)
            if bool(partition.failing) is not failing:
                self.pressure.settle(partition, actions)

    def _committed(self, event: on.Committed, now: float, actions: list[Action]) -> None:
        self.commits.answered(self.partitions, event.results)

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self, event: on.Tick, now: float, actions: list[Action]) -> None:
        retries = self._retries
        while retries and retries[0][0] <= now:
            entry = heapq.heappop(retries)[2]
            if not entry.partition.leaving:
                self._ready.admit(entry)
        self.forwarding.on_tick(now)
        items = self.commits.on_tick(self.partitions.values(), now)
        if items:
            actions.append(do.Commit(items))

    # -- the group and the operator -----------------------------------------------------------------------------

    def _revoked(self, event: on.Revoked, now: float, actions: list[Action]) -> None:
        leaving = [self.partitions[name] for name in event.partitions if name in self.partitions]
        self._leave(leaving, actions)
        if event.lost:
            if self.departure.stopping:
                self.departure.lost += sum(partition.changed for partition in leaving)
            self._fence(leaving, actions)
            actions.append(do.Released(event.partitions, []))
            return
        self.departure.revoke(event.partitions, leaving, event.deadline)

    def _go_quiet(self, event: on.Quiet, now: float, actions: list[Action]) -> None:
        self.quiet = True

    def _stop_requested(self, event: on.StopRequested, now: float, actions: list[Action]) -> None:
        self.quiet = True
        self._leave(self.partitions.values(), actions)
        self.departure.stop(event.deadline)

    def _leave(self, partitions: Iterable[Partition], actions: list[Action]) -> None:
        """Start nothing more of these partitions; take back what has not begun."""
        for partition in partitions:
            partition.leaving = True
            self._ready.leave(partition)
        actions.append(do.Withdraw())

    def _withdrawn(self, event: on.Withdrawn, now: float, actions: list[Action]) -> None:
        for entry in event.entries:
            entry.run += 1
            entry.partition.running -= 1
            self._free[entry.route.executor] += 1
            self._ready.release_limit(entry)

    def _settle(self, now: float, actions: list[Action]) -> None:
        """End the revokes and the stop that are drained, or whose budget is over."""
        for names, partitions in self.departure.released(now):
            # Order: the commit is made of what is finished now; only then is the epoch fenced, so that whatever
            # finishes later is seen as late.
            items = self.commits.items(partitions)
            self._fence(partitions, actions)
            actions.append(do.Released(names, items))
        if self.departure.drained(self.partitions.values(), now):
            partitions = list(self.partitions.values())
            unfinished = self.departure.lost + sum(part.running + part.forwarding for part in partitions)
            items = self.commits.items(partitions)
            self._fence(partitions, actions)
            actions.append(do.Drained(items, unfinished))

    def _fence(self, partitions: Iterable[Partition], actions: list[Action]) -> None:
        cancelled = []
        for partition in partitions:
            if partition.fenced:  # a stop was over before the revoke that was on its way
                continue
            partition.leaving = partition.fenced = True
            self._ready.leave(partition)
            self.pressure.forget(partition)
            if partition.running:
                self.departure.abandoned += partition.running
                cancelled.append(partition)
            if self.partitions.get(partition.topic_partition) is partition:
                del self.partitions[partition.topic_partition]
        self._retries = [retry for retry in self._retries if not retry[2].partition.fenced]  # some are due in days
        heapq.heapify(self._retries)
        if cancelled:
            actions.append(do.Cancel(cancelled))
