"""The engine: events in, actions out. The only mutable state of a worker, owned by one thread, with time as an
argument: no locks, no sleeps, nothing that a Hypothesis state machine cannot drive.

`handle(event, now)` returns what to do, in order. `now` is a monotonic clock's reading; wall time comes with events.

    Assigned, Polled, EndReached        the log        -> Start, Send, Pause, Resume, Suspected
    Finished                            the executors  -> Start, Send
    Forwarded, Committed                the broker     -> Send, CreateTopics
    Revoked, Withdrawn                  the group      -> Withdraw, Cancel, Released
    Tick                                time           -> Start, Send, Commit, Cleared
    LogReady                            the delay log  -> Send
    Quiet, StopRequested                the operator   -> Withdraw, Cancel, Drained
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count

from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.actions import Action
from kworker.core.arrivals import Arrivals
from kworker.core.commits import Commits
from kworker.core.departure import Departure
from kworker.core.ended import Ended
from kworker.core.entry import Entry
from kworker.core.forward import Verdict
from kworker.core.forwarding import Forwarding
from kworker.core.mark import unpacked
from kworker.core.metadata import Alphabet, Intervals, read
from kworker.core.partition import Partition
from kworker.core.pressure import Pressure
from kworker.core.ready import ReadyQueue
from kworker.core.retries import Retries
from kworker.core.retry import Dead
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.core.suspicion import Suspicion
from kworker.task import SUCCESS, Outcome, Record, Success, TopicPartition

_NOTHING = Intervals()


class Engine:
    """Decides everything about the records of the assigned partitions, from their delivery to their commit."""

    def __init__(self, settings: EngineSettings, routes: Mapping[str, Route], jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._ready = ReadyQueue(settings.order, settings.slots)
        self._free = dict(settings.slots)
        self._epochs = count(1)
        self._at = 0.0  # wall time of the latest event that brought one
        self.commits = Commits(settings.commit_interval, settings.alphabet)
        self.routes = dict(routes)
        self.partitions: dict[TopicPartition, Partition] = {}
        self.forwarding = Forwarding(settings.group, settings.worker, settings.namespace)
        self._retries = Retries(settings, self.forwarding)
        self.departure = Departure()
        self.suspicion = Suspicion(settings.isolated, settings.commit_interval)
        self.arrivals = Arrivals(settings, self.routes, self.suspicion)
        self.pressure = Pressure(settings.most_records, settings.most_bytes, settings.alphabet)
        self.late_results = 0
        """Reports that came after the attempt was no longer ours to decide."""
        self.foreign_metadata = 0
        """Assignments whose commit metadata was not written by kworker for that offset."""
        self.quiet = False
        self._reactions: dict[type, Callable[..., None]] = {
            on.Polled: self._polled,
            on.Finished: self._finished,
            on.Forwarded: self._forwarded,
            on.Tick: self._tick,
            on.LogReady: self._begin_to_delay,
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
        self.pressure.shrunk(len(self.partitions), actions)
        outgoing, missing = self.forwarding.take()
        if missing:
            actions.append(do.CreateTopics(missing))
        if outgoing:
            actions.append(do.Send(outgoing))
        if self.departure.pending:
            self._settle(now, actions)
        self._start(now, actions)  # last: what was given up may have been what the others waited for
        return actions

    @property
    def room(self) -> int:
        """How many more records may be fetched now; never below 0."""
        return 0 if self.quiet else self.pressure.room

    @property
    def next_due(self) -> float:
        """When to send the next Tick at the latest (engine time)."""
        due = self.commits.due
        for other in (self._retries.due, self.forwarding.due, self.departure.due):
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
                actions.append(do.Withdraw())  # what has not begun of the log that is gone
                self._fence([self.partitions[topic_partition]], actions)
            stored = read(given.metadata if given.committed == given.start else "", given.start)
            if stored is None:
                self.foreign_metadata += 1
            restored, mark = stored or (_NOTHING, b"")
            rules = self._settings.topics.get(topic_partition.topic)
            partition = Partition(
                topic_partition,
                next(self._epochs),
                given.start,
                restored,
                None if rules is None else rules.task,
                self._settings.dead_letter(topic_partition.topic),
            )
            partition.committed = given.committed
            if given.committed != given.start or not given.marked:
                partition.changes = 1  # the start position itself is committed: a group that starts at the end must
            self.partitions[topic_partition] = partition  # not lose what comes before its first finished task
            before = unpacked(mark)
            partition.mark = before.begun(given.start, restored, given.end)
            partition.marked = partition.mark if given.marked else before
            actions += self.suspicion.watch(partition, before, given.end)
            if self.departure.stopping:
                partition.leaving = True
            if topic_partition in self.pressure.paused:  # a pause outlives its assignment in librdkafka
                self.pressure.paused.discard(topic_partition)
                resumed.append(topic_partition)
        if resumed:
            actions.append(do.Resume(resumed))

    def _polled(self, event: on.Polled, now: float, actions: list[Action]) -> None:
        self._at = event.at
        touched: dict[Partition, None] = {}
        for name, run in event.runs():
            partition = self.partitions.get(name)
            if partition is not None and not partition.leaving:
                touched[partition] = None
                self._open(partition, run)
        for partition in touched:
            self.pressure.grown(partition, len(self.partitions), actions)

    def _open(self, partition: Partition, run: list[Record]) -> None:
        opened = self.arrivals.open(partition, run, self._at)
        self.pressure.add(partition, len(opened.entries) + len(opened.condemned), opened.size)
        self._ready.arrive_all(opened.entries)
        for entry, verdict in opened.condemned:
            self._set_aside(entry, verdict)

    def _end_reached(self, event: on.EndReached, now: float, actions: list[Action]) -> None:
        partition = self.partitions.get(event.topic_partition)
        # Records that come for a leaving partition are dropped: its end would count them as worked, and lose them.
        if partition is not None and not partition.leaving and partition.tracker.end_reached(event.offset):
            partition.changes += 1

    def _fetch_failed(self, event: on.FetchFailed, now: float, actions: list[Action]) -> None:
        live = [partition for partition in self.partitions.values() if not partition.leaving]
        actions.append(do.SeekBack([(partition.topic_partition, partition.tracker.next) for partition in live]))

    # -- the executors ------------------------------------------------------------------------------------------

    def _start(self, now: float, actions: list[Action]) -> None:
        closed = self.suspicion.watched and self._take_care(now, actions)
        for executor, free in self._free.items():
            if free > 0 and self._ready.waiting(executor) and not (closed and executor not in self._settings.isolated):
                self._hand_over(executor, self._ready.take(executor, free), actions)

    def _hand_over(self, executor: str, entries: list[Entry], actions: list[Action]) -> None:
        for entry in entries:
            entry.run += 1
            entry.partition.running += 1
        if entries:
            self._free[executor] -= len(entries)
            actions.append(do.Start(executor, entries))

    def _take_care(self, now: float, actions: list[Action]) -> bool:
        """Start what must run alone, if its turn has come; True if nothing else may start in this process."""
        slots, isolated = self._settings.slots, self._settings.isolated
        running = sum(slots[executor] - free for executor, free in self._free.items() if executor not in isolated)
        entry = self.suspicion.turn(running, self._ready, now, self._at)
        if entry is not None:
            self._hand_over(entry.route.executor, [entry], actions)
        items = self.commits.ask(self.partitions.values(), now) if self.suspicion.urgent else []
        if items:
            actions.append(do.Commit(items, urgent=True))
        return self.suspicion.closed

    def _finished(self, event: on.Finished, now: float, actions: list[Action]) -> None:
        self._at = event.at
        groups: dict[Partition, Ended] = {}  # under an order by key, what ends in a row is of many partitions
        for entry, run, outcome, _started, _ended in event.reports:
            if entry.run != run:
                self.late_results += 1
                continue
            entry.run = run + 1
            ended = groups.get(entry.partition)
            if ended is None or ended.route is not entry.route:
                if ended is not None:
                    self._settle_ended(ended)
                ended = groups[entry.partition] = Ended(entry.partition, entry.route)
            if outcome is SUCCESS and ended.plain:
                ended.finished.append(entry)
            else:
                ended.others += 1
                self._end(entry, outcome, now)
        for ended in groups.values():
            self._settle_ended(ended)

    def _settle_ended(self, ended: Ended) -> None:
        """Attempts of one route and one partition ended: what is the same for all of them."""
        partition, route, finished = ended.partition, ended.route, ended.finished
        self._free[route.executor] += len(finished) + ended.others
        partition.running -= len(finished) + ended.others
        if finished:
            route.succeeded += len(finished)
            self._complete(partition, finished)

    def _end(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """An attempt ended in a way of its own."""
        route = entry.route
        self._ready.release_limit(entry)
        if entry.partition.fenced:
            self.late_results += 1
        elif isinstance(outcome, Success):
            route.succeeded += 1
            if outcome.publish:
                self.forwarding.publish(entry, outcome.publish)
            else:
                self._complete_one(entry)
        else:
            self._decide(entry, outcome, now)

    def _decide(self, entry: Entry, outcome: Outcome, now: float) -> None:
        route = entry.route
        route.count_failure(outcome)
        decision = route.policy.decide(outcome, entry.attempt, self._at - entry.seen, self._jitter())
        if isinstance(decision, Dead):
            self._set_aside(entry, Verdict(decision.reason, decision.error))
        else:
            route.retried += decision.counts
            entry.attempt += decision.counts
            self._retries.put_off(entry, decision.wait, now, self._at)

    def _set_aside(self, entry: Entry, verdict: Verdict) -> None:
        self.forwarding.set_aside(entry, verdict, self._at)

    def _complete_one(self, entry: Entry) -> None:
        self._complete(entry.partition, [entry])

    def _complete(self, partition: Partition, entries: list[Entry]) -> None:
        """The effects of these entries are acknowledged: their offsets are finished and their lanes go on."""
        records = [entry.back or entry.task for entry in entries]
        partition.tracker.finish_all([record.offset for record in records])
        partition.changes += len(entries)
        self.pressure.remove(partition, len(entries), sum([entry.task.size for entry in entries]))
        if not partition.leaving:
            self._ready.release_lanes(entries)

    # -- the broker ---------------------------------------------------------------------------------------------

    def _forwarded(self, event: on.Forwarded, now: float, actions: list[Action]) -> None:
        for forward, refusal in event.results:
            entry = forward.entry
            partition = entry.partition
            failing = bool(partition.failing)
            if refusal is None:
                if forward.due is not None:
                    entry.route.delayed += 1
                if self.forwarding.acknowledged(forward) and not partition.fenced:
                    self._complete_one(entry)
            elif not partition.fenced and forward.due is not None:
                self._retries.keep(forward, refusal, now)
            elif not partition.fenced:
                self.forwarding.refused(forward, refusal, now, self._at)
            if bool(partition.failing) is not failing:
                self.pressure.settle(partition, actions)

    def _committed(self, event: on.Committed, now: float, actions: list[Action]) -> None:
        self.commits.answered(self.partitions, event.results)

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self, event: on.Tick, now: float, actions: list[Action]) -> None:
        for entry in self._retries.take(now):
            if not entry.partition.leaving:
                self._ready.admit(entry)
        self.forwarding.on_tick(now)
        if self.suspicion.watched:
            actions += self.suspicion.on_tick(self._ready, now)
        items = self.commits.on_tick(self.partitions.values(), now)
        if items:
            actions.append(do.Commit(items))

    def _begin_to_delay(self, event: on.LogReady, now: float, actions: list[Action]) -> None:
        self._at = event.at
        self._retries.begin_to_delay(now, event.at)

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
            self._drop(partition)
        actions.append(do.Withdraw())

    def _drop(self, partition: Partition) -> None:
        self._ready.leave(partition)
        for entry in self.suspicion.leave(partition):
            self._ready.release_limit(entry)

    def _withdrawn(self, event: on.Withdrawn, now: float, actions: list[Action]) -> None:
        for entry in event.entries:
            entry.run += 1
            entry.partition.running -= 1
            self._free[entry.route.executor] += 1
            self._ready.release_limit(entry)
            self.departure.abandoned -= entry.partition.fenced  # it was counted with what runs

    def _settle(self, now: float, actions: list[Action]) -> None:
        """End the revokes and the stop that are drained, or whose budget is over."""
        for names, partitions in self.departure.released(now):
            # Order: the commit is made of what is finished now; only then is the epoch fenced, so that whatever
            # finishes later is seen as late.
            items = self.commits.last_items(partitions)
            self._fence(partitions, actions)
            actions.append(do.Released(names, items))
        if self.departure.drained(self.partitions.values(), now):
            partitions = list(self.partitions.values())
            unfinished = self.departure.lost + sum(part.running + part.forwarding for part in partitions)
            items = self.commits.last_items(partitions)
            self._fence(partitions, actions)
            actions.append(do.Drained(items, unfinished))

    def _fence(self, partitions: Iterable[Partition], actions: list[Action]) -> None:
        cancelled = []
        for partition in partitions:
            if partition.fenced:  # a stop was over before the revoke that was on its way
                continue
            partition.leaving = partition.fenced = True
            self._drop(partition)
            self.suspicion.forget(partition)
            self.pressure.forget(partition)
            if partition.running:
                self.departure.abandoned += partition.running
                cancelled.append(partition)
            if self.partitions.get(partition.topic_partition) is partition:
                del self.partitions[partition.topic_partition]
        self._retries.drop_fenced()
        if cancelled:
            actions.append(do.Cancel(cancelled))
