"""Forwards on their way: which entry waits for which acknowledgement, and what to do when the broker refuses.

Promises: an entry's offset completes only after every one of its forwards was acknowledged. A refused forward is
tried again for as long as the partition is ours; meanwhile its partition is paused (`failing`), so that a missing or
full dead-letter topic stops the intake and never loses a record. A retry that the delay log does not take is given back
at once: it can wait here as well.
"""

from __future__ import annotations

import heapq
from itertools import count

from kworker.core.deadletter import CUT, dead_letter
from kworker.core.delayed import Retried, log_of, retry
from kworker.core.entry import Entry
from kworker.core.events import Refusal
from kworker.core.forward import Forward, Verdict
from kworker.task import ErrorInfo, Publication, Reason

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0
_PUBLICATION_TRIES = 5


class Forwarding:
    """Owns the forwards of all partitions. group and worker: in every dead letter; namespace: of the delay log."""

    __slots__ = ("_due", "_group", "_missing", "_namespace", "_outgoing", "_sequence", "_worker", "failures")

    def __init__(self, group: str, worker: str, namespace: str = "kworker") -> None:
        self._group = group
        self._worker = worker
        self._namespace = namespace
        self._outgoing: list[Forward] = []
        self._missing: list[tuple[str, str]] = []
        self._due: list[tuple[float, int, Forward]] = []  # refused, to be tried again
        self._sequence = count()
        self.failures: dict[str, int] = {}
        """Refused forwards by the topic their record was read from: a task may name any target."""

    def set_aside(self, entry: Entry, verdict: Verdict, at: float) -> None:
        """Send the entry to its dead-letter topic. `at`: now, in seconds since the epoch."""
        _count(entry, verdict)
        self._send(entry, [Forward(entry, self._letter(entry, verdict, at, 0), verdict)])

    def publish(self, entry: Entry, publications: tuple[Publication, ...]) -> None:
        """Send what a task published with its success."""
        self._send(entry, [Forward(entry, publication) for publication in publications])

    def put_off(self, entry: Entry, due: float, at: float) -> None:
        """Send the entry to the delay log. `due`: when it is to be tried again, by the engine's time; `at`: the same in
        seconds since the epoch."""
        task = entry.task
        info = Retried(
            entry.attempt, int(entry.seen * 1000), f"{task.topic}/{task.partition}/{task.offset}", task.timestamp
        )
        record = retry(task.key, task.value, task.headers, info, due=at, group=self._group, namespace=self._namespace)
        self._send(entry, [Forward(entry, record, due=due)])

    def ask_for_log(self) -> None:
        """Have the delay log made, and what belongs to it."""
        log = log_of(self._namespace)
        self._missing.append((log, log))

    def give_back(self, forward: Forward) -> None:
        """The delay log did not take it: its entry is not on its way any more."""
        self._count_failure(forward.entry)
        forward.entry.partition.forwarding -= 1
        forward.entry.pending = 0

    def acknowledged(self, forward: Forward) -> bool:
        """The broker has it; True when that was the last one its entry waited for."""
        entry = forward.entry
        entry.partition.forwarding -= 1
        entry.partition.failing.discard(forward)
        entry.pending -= 1
        return not entry.pending

    def refused(self, forward: Forward, refusal: Refusal, now: float, at: float) -> None:
        """The broker did not take it: make it smaller, have its topic created, or just try again later."""
        entry = forward.entry
        topic = forward.publication.topic
        self._count_failure(entry)
        if forward.verdict is None and refusal is not Refusal.OTHER and forward.tries >= _PUBLICATION_TRIES:
            # A task that publishes what no broker will take must not stop its partition: the record is set aside.
            error = ErrorInfo("publication", f"what it published to {topic!r} was refused: {refusal.name.lower()}")
            forward.verdict = Verdict(Reason.REJECTED, error)
            _count(entry, forward.verdict)
            forward.publication = self._letter(entry, forward.verdict, at, forward.level)
            self._outgoing.append(forward)
            return
        if forward.verdict is not None and refusal is Refusal.TOO_LARGE and forward.level < CUT:
            forward.level += 1
            forward.publication = self._letter(entry, forward.verdict, at, forward.level)
            self._outgoing.append(forward)
            return
        if forward.verdict is not None and refusal is Refusal.NO_TOPIC:
            self._missing.append((entry.task.topic, topic))
        entry.partition.failing.add(forward)
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(forward.tries, 10))
        forward.tries += 1
        heapq.heappush(self._due, (now + wait, next(self._sequence), forward))

    @property
    def due(self) -> float | None:
        """When the next refused forward is to be tried again (engine time)."""
        return self._due[0][0] if self._due else None

    def on_tick(self, now: float) -> None:
        """Send what is due again; what belongs to a fenced partition is dropped."""
        while self._due and self._due[0][0] <= now:
            forward = heapq.heappop(self._due)[2]
            if not forward.entry.partition.fenced:
                self._outgoing.append(forward)

    def take(self) -> tuple[list[Forward], list[tuple[str, str]]]:
        """What to send now, and the topics found missing since the last call: (source, missing)."""
        taken = self._outgoing, self._missing
        self._outgoing, self._missing = [], []
        return taken

    def _send(self, entry: Entry, forwards: list[Forward]) -> None:
        entry.pending = len(forwards)
        entry.partition.forwarding += len(forwards)
        self._outgoing += forwards

    def _count_failure(self, entry: Entry) -> None:
        topic = entry.partition.topic_partition.topic
        self.failures[topic] = self.failures.get(topic, 0) + 1

    def _letter(self, entry: Entry, verdict: Verdict, at: float, level: int) -> Publication:
        return dead_letter(
            entry, verdict.reason, verdict.error, at=at, group=self._group, worker=self._worker, level=level
        )


def _count(entry: Entry, verdict: Verdict) -> None:
    counts = entry.route.dead_lettered
    counts[verdict.reason] = counts.get(verdict.reason, 0) + 1
