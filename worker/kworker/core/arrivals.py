"""The decode and track steps: what of the records of one partition that were fetched is to run, and what is set aside.

Promises: each offset opens once, whatever is delivered again; what an earlier owner finished does not run again; and a
record that cannot run, or killed its worker too often, becomes an entry all the same, for its dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from kworker.core.entry import Back, Entry
from kworker.core.forward import Verdict
from kworker.core.metadata import Intervals
from kworker.core.partition import Partition
from kworker.core.retry import RetryPolicy
from kworker.core.returned import returned
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.core.suspicion import Suspicion
from kworker.core.wire import UNKNOWN, bare, decode, decode_all
from kworker.errors import DecodeError
from kworker.task import ErrorInfo, Record, Task


class Opened(Struct):
    """What became of a run of records: to run, and to set aside. size: bytes of all of them."""

    entries: list[Entry]
    condemned: list[tuple[Entry, Verdict]]
    size: int = 0


_NONE = Intervals()


class Arrivals:
    """Owns what is counted of records as they come.

    received: records by topic. refused_replies: messages that asked for their result to go to a topic that is not
    allowed; no result is sent there. unknown: stands for the route of what cannot run.
    """

    __slots__ = ("_retry_topic", "_routes", "_settings", "_suspicion", "received", "refused_replies", "unknown")

    def __init__(self, settings: EngineSettings, routes: Mapping[str, Route], suspicion: Suspicion) -> None:
        self._settings = settings
        self._retry_topic = settings.retry_topic
        self._routes = routes
        self._suspicion = suspicion
        self.unknown = Route(UNKNOWN, "", RetryPolicy())
        self.received: dict[str, int] = {}
        self.refused_replies = 0

    def open(self, partition: Partition, run: list[Record], seen: float) -> Opened:
        """Records of one partition, in log order, become open; the work is done once a run where it can be.

        seen: now, in seconds since the epoch.
        """
        opened = Opened([], [])
        tracker = partition.tracker
        offsets = [record.offset() for record in run]
        if offsets[0] < tracker.next:  # delivered again after a seek back: open or finished already
            run = [record for record in run if record.offset() >= tracker.next]
            if not run:
                return opened
            offsets = offsets[-len(run) :]
        partition.marks.append((offsets[0], seen))
        tracker.open_all(offsets)
        topic = partition.topic_partition.topic
        self.received[topic] = self.received.get(topic, 0) + len(run)
        if partition.restored:
            run = self._restore(partition, run)
            offsets = [record.offset() for record in run]
        if topic == self._retry_topic:
            for record in run:
                self._take_back(opened, partition, record, seen)
        else:
            routes, entries, size = self._routes, opened.entries, 0
            tasks = decode_all(run, offsets, partition.topic_partition, routes, partition.default_task)
            for record, task in zip(run, tasks, strict=True):
                if task.__class__ is not Task:
                    assert isinstance(task, DecodeError)
                    self._condemn(opened, Entry(bare(record, task), partition, self.unknown, seen), task)
                else:
                    if task.reply_to is not None:
                        task = self._with_reply(task)
                    entries.append(Entry(task, partition, routes[task.name], seen))
                    size += task.size
            opened.size += size
        if partition.watch is not None:
            self._judge(opened)
        return opened

    def _take_back(self, opened: Opened, partition: Partition, record: Record, seen: float) -> None:
        """One record of the retry topic: it goes on as the task it was, with the attempt it had come to."""
        first = returned(record)
        if isinstance(first, DecodeError):
            self._condemn(opened, Entry(bare(record, first), partition, self.unknown, seen), first)
            return
        info, topic = first.info, first.topic()
        rules = self._settings.topics.get(topic)
        task = decode(first, self._routes, None if rules is None else rules.task)
        entry = Entry(
            bare(first, task) if isinstance(task, DecodeError) else self._with_reply(task, counted=True),
            partition,
            self.unknown if isinstance(task, DecodeError) else self._routes[task.name],
            info.first_seen / 1000,
            attempt=info.attempt,
            back=Back(record.offset(), self._settings.dead_letter(topic)),
        )
        if isinstance(task, DecodeError):
            self._condemn(opened, entry, task)
        else:
            opened.entries.append(entry)
            opened.size += entry.task.size

    def _condemn(self, opened: Opened, entry: Entry, error: DecodeError) -> None:
        opened.condemned.append((entry, Verdict(error.reason, ErrorInfo(error.code, str(error)))))
        opened.size += entry.task.size

    def _with_reply(self, task: Task, *, counted: bool = False) -> Task:
        """The task, without the topic for its reply where that is not allowed. counted: it was seen here before."""
        if task.reply_to is None or task.reply_to in self._settings.reply_topics:
            return task
        self.refused_replies += not counted
        return structs.replace(task, reply_to=None)

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
            partition.restored = _NONE
        return left

    def _judge(self, opened: Opened) -> None:
        """Set aside what killed its worker too often."""
        entries, opened.entries = opened.entries, []
        for entry in entries:
            verdict = self._suspicion.judge(entry)
            if verdict is None:
                opened.entries.append(entry)
            else:
                opened.condemned.append((entry, verdict))
