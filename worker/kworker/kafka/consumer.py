"""The intake: the one thread that owns the Consumer. It polls, and between polls it does what the loop asks.

Every Consumer method waits at a gate that is held for the whole of a poll (confluent-kafka 2.16, its PR 2322), so
commits, pauses and seeks are commands executed here. Promises: callbacks never raise (a raise inside consume() loses
what it had fetched); every call to the broker is bounded; records are posted in log order; on a revoke nothing of the
partition is given up before the loop has drained it and its commit was answered.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as Position

from kworker.core.actions import CommitItem
from kworker.core.events import Assigned, Assignment, EndReached, Event, FetchFailed, Polled, Revoked
from kworker.core.metadata import Alphabet
from kworker.kafka.committer import Committer
from kworker.kafka.ends import LogEnds
from kworker.kafka.fetch import fetch
from kworker.kafka.membership import Membership
from kworker.kafka.positions import Positions, listed
from kworker.kafka.room import Room
from kworker.kafka.subscription import Subscription
from kworker.task import Record, TopicPartition

log = logging.getLogger(__name__)
_client_log = logging.getLogger("kworker.client")  # what librdkafka reports; rate-limited by the worker

_POLL = 0.1
_SHORT_POLL = 0.005  # while urgent commits follow each other: each waits for the end of a poll
_HOLD = 0.02  # seconds between two looks for room
_PAUSE_AFTER = 1.0  # without room for so long, partitions are paused: that throws prefetched records away, so late
_ANSWER_MARGIN = 5.0
_LEAVE = 0.5  # seconds of the time for a close that are kept for leaving the group


class Intake:
    """See the module. Commands may be given from any thread; they are executed in the order they were given.

    Its counters have one writer, the intake thread. retries: the group's retry topic; it is read if there is one.
    """

    def __init__(
        self,
        settings: Mapping[str, object],
        topics: Sequence[str],
        *,
        post: Callable[[Event], None],
        room: Room,
        fatal: Callable[[str], None],
        probed: Callable[[Alphabet | None], None],
        start_from: str = "earliest",
        revoke_timeout: float = 10.0,
        retries: str = "",
    ) -> None:
        self._settings = settings
        self._subscription = Subscription(topics, retries)
        self._post = post
        self._room = room
        self._fatal = fatal
        self._revoke_timeout = revoke_timeout
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._released: queue.SimpleQueue[list[CommitItem]] = queue.SimpleQueue()
        self._committer = Committer(post)
        self._assigned: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._held = False  # all partitions are paused for want of room
        self._no_room_since: float | None = None
        self._seeking: set[TopicPartition] | None = None  # what is to be sought before anything more is fetched
        self._closing = False
        self._positions = Positions(start_from, probed, retries)
        self._ends = LogEnds()
        self._membership = Membership(settings)
        self._thread = threading.Thread(target=self._run, name="kworker-intake", daemon=True)
        self.joined = False
        self.last_poll = time.monotonic()
        self.posted_records = self.posted_bytes = 0
        self.rebalances = {"assigned": 0, "revoked": 0, "lost": 0}
        self.offset_loss: dict[str, int] = {}
        self.seeks_back = 0
        self.unreadable: dict[TopicPartition, str] = {}
        """Partitions whose next records the client cannot read, and why: nothing comes of them until it can."""

    # -- called by the loop -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the group and begin to fetch."""
        self._thread.start()

    def commit(self, items: Sequence[CommitItem], *, urgent: bool = False) -> None:
        """Commit; answered by one Committed event. urgent: wait for the answer here."""
        ordered = self._committer.given_up
        self._commands.put(lambda: self._committer.send(self._consumer, items, ordered, urgent=urgent))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch nothing more of these."""
        self._commands.put(lambda: self._set_paused(partitions, True))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch these again."""
        self._commands.put(lambda: self._set_paused(partitions, False))

    def seek_back(self, positions: Sequence[tuple[TopicPartition, int]]) -> None:
        """The answer to FetchFailed: fetch from these positions on."""
        self._commands.put(lambda: self._seek(positions))

    def begin_again(self, topics: Collection[str]) -> None:
        """These topics were deleted and made anew: read them from where their logs start."""
        self._commands.put(lambda: self._begin_again(topics))

    def read_retries(self) -> None:
        """There is a retry topic: read it as well, unless that is done."""
        self._commands.put(lambda: self._subscription.grow(self._consumer))

    def release(self, items: Sequence[CommitItem]) -> None:
        """The answer to Revoked: commit this and give the partitions up."""
        self._committer.release()
        self._released.put(list(items))

    def close(self, items: Sequence[CommitItem], timeout: float) -> bool:
        """Commit this, leave the group and end; False if that was not done within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._committer.close_with(items)
        self._commands.put(lambda: self._close(deadline))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def log_ends(self) -> dict[TopicPartition, int]:
        """The end of each assigned partition, as far as known."""
        return self._ends.known

    @property
    def uncommitted(self) -> list[CommitItem]:
        """After `close`: what was to be committed and was not acknowledged."""
        return self._committer.uncommitted

    # -- the intake thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._consumer = Consumer(
                {
                    **self._settings,
                    "on_commit": self._guarded(self._committer.answered),
                    "error_cb": self._guarded(self._on_error),
                    "logger": _client_log,
                }
            )
            self._subscription.begin(
                self._consumer,
                on_assign=self._guarded(self._on_assign),
                on_revoke=self._guarded(self._on_revoke),
                on_lost=self._guarded(self._on_lost),
            )
            while not self._closing:
                self._execute_commands()
                if not self._closing:
                    self._step()
                    self._look()
        except Exception as error:
            log.debug("intake", exc_info=True)
            self._fatal(f"intake: {type(error).__name__}: {error}")

    def _look(self) -> None:
        if not self._closing:
            self._ends.look(self._consumer, self._assigned, self._paused, self.last_poll)
            self.joined = self._membership.holds(self._consumer, self.joined, self.last_poll)

    def _step(self) -> None:
        room = self._room.records()
        if self._seeking is not None or room <= 0 or self._room.bytes() <= 0:
            self._without_room()
            return
        self._no_room_since = None
        if self._held:
            self._hold(False)
        try:
            batch = self._fetch(room)
        except Exception:
            log.exception("fetching records raised; going back to what was delivered last")
            self._ask_to_seek()
            return
        self.last_poll = time.monotonic()
        if batch:
            self._deliver(batch)

    def _fetch(self, room: int) -> list[Message]:
        return fetch(self._consumer, self._patience, room, self._room.bytes)

    @property
    def _patience(self) -> float:
        return _SHORT_POLL if self._committer.hurried else _POLL

    def _deliver(self, batch: list[Message]) -> None:
        # The client's stubs say Optional where a message without an error has a value.
        records = cast("list[Record]", [message for message in batch if message.error() is None])
        if records:
            size = sum(map(len, batch))
            self.posted_records += len(records)
            self.posted_bytes += size
            self._post(Polled(records, time.time(), size))
            if self.unreadable:
                for record in records:
                    self.unreadable.pop(TopicPartition(record.topic(), record.partition()), None)
        if len(records) < len(batch):
            for message in batch:
                error = message.error()
                if error is not None:
                    self._on_message_error(message, error)

    def _without_room(self) -> None:
        """Wait for room without polling; when it lasts, pause everything and poll on, for the group's sake."""
        now = time.monotonic()
        if self._no_room_since is None:
            self._no_room_since = now
        if self._seeking is None and not self._held and now - self._no_room_since >= _PAUSE_AFTER:
            self._hold(True)
        if self._held:
            try:
                message = self._consumer.poll(self._patience)
            except Exception:
                log.exception("polling raised; going back to what was delivered last")
                self._ask_to_seek()
                return
            if message is not None:  # an event, or a record that was on its way before the pause
                self._deliver([message])
        else:
            self._execute_commands(wait=_HOLD)
        self.last_poll = time.monotonic()

    def _hold(self, hold: bool) -> None:
        self._held = hold
        places = [Position(*name) for name in self._assigned - self._paused]
        (self._consumer.pause if hold else self._consumer.resume)(places)

    def _execute_commands(self, wait: float = 0.0) -> None:
        try:
            if wait:
                self._commands.get(timeout=wait)()
            while not self._closing:
                self._commands.get_nowait()()
        except queue.Empty:
            return

    # -- commands -----------------------------------------------------------------------------------------------

    def _set_paused(self, partitions: Iterable[TopicPartition], paused: bool) -> None:
        names = [name for name in partitions if name in self._assigned]
        (self._paused.update if paused else self._paused.difference_update)(names)
        if names and not self._held:
            (self._consumer.pause if paused else self._consumer.resume)([Position(*name) for name in names])

    def _ask_to_seek(self) -> None:
        # Nothing more is fetched until the answer: a record beyond the gap would make it look delivered.
        self.seeks_back += 1
        self._seeking = set(self._assigned)
        self._post(FetchFailed())

    def _seek(self, positions: Sequence[tuple[TopicPartition, int]]) -> None:
        for name, offset in positions:
            if name in (self._seeking or ()):  # one that was given up and came back meanwhile starts anew
                self._consumer.seek(Position(*name, offset))
        self._seeking = None

    def _begin_again(self, topics: Collection[str]) -> None:
        for name in [name for name in self._assigned if name.topic in topics]:
            start = self._positions.first(self._consumer, name)
            extra = {**name._asdict(), "start": start}
            log.error("the topic was deleted and made anew: it is read from its start", extra=extra)
            self._restart(name, start, fresh=True)

    def _close(self, deadline: float) -> None:
        # Everything is drained and fenced. The commit is asynchronous and waited for: a synchronous one would block
        # for 45 s when the broker is gone. It is refused when the group is given a new generation meanwhile, and sent
        # again then. Heartbeats stop in close(), so nothing may be left to drain there.
        self._closing = True
        self._committer.finish(self._consumer, deadline - _LEAVE)
        self._consumer.close()

    # -- callbacks of the client, in this thread ------------------------------------------------------------------

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: object) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                log.debug("callback", exc_info=True)
                self._fatal(f"intake: {type(error).__name__} in a callback: {error}")

        return guarded

    def _on_assign(self, consumer: Consumer, partitions: list[Position]) -> None:
        self.joined = True
        if self._closing:
            return
        self.rebalances["assigned"] += 1
        assignments = self._positions.resolve(consumer, partitions)
        names = {given.topic_partition for given in assignments}
        self._assigned |= names
        self._paused -= names
        # Order: the loop hears of the assignment before any record of it can be fetched.
        self._post(Assigned(assignments))
        consumer.incremental_assign([Position(*given.topic_partition, given.start) for given in assignments])
        if names:  # a pause outlives an assignment in librdkafka
            (consumer.pause if self._held else consumer.resume)([Position(*name) for name in names])
        log.info("assigned", extra={"partitions": listed(names)})

    def _on_revoke(self, consumer: Consumer, partitions: list[Position]) -> None:
        names = [TopicPartition(position.topic, position.partition) for position in partitions]
        if self._closing:
            items = self._committer.take_last(names)
        else:
            self.rebalances["revoked"] += 1
            self._give_up(names, lost=False)
            items = self._await_release(names)
        if items:
            self._committer.commit_now(consumer, items)
        log.info("revoked", extra={"partitions": listed(names)})

    def _await_release(self, names: list[TopicPartition]) -> list[CommitItem]:
        deadline = time.monotonic() + self._revoke_timeout + _ANSWER_MARGIN
        while True:
            closing = self._committer.closing  # Order: its last answer is looked for after that
            try:
                return self._released.get(timeout=0.1)
            except queue.Empty:
                if closing:  # the loop has ended, and this is what it wants to be committed
                    return self._committer.take_last(names)
                if time.monotonic() > deadline:
                    self._fatal("intake: the loop did not answer a revoke")
                    return []

    def _on_lost(self, consumer: Consumer, partitions: list[Position]) -> None:
        names = [TopicPartition(position.topic, position.partition) for position in partitions]
        if self._closing:
            self._committer.give_up(self._committer.take_last(names))
            return
        self.rebalances["lost"] += 1
        self.joined = False  # until it is given some, or none, again
        self._give_up(names, lost=True)
        self._committer.give_up(self._await_release(names))
        log.warning(
            "lost: the group gave these partitions away while we were not heard", extra={"partitions": listed(names)}
        )

    def _give_up(self, names: list[TopicPartition], *, lost: bool) -> None:
        for held in (self._assigned, self._paused, self._seeking or set()):
            held.difference_update(names)
        for name in names:
            self.unreadable.pop(name, None)
        self._post(Revoked(names, time.monotonic() + self._revoke_timeout, lost))

    def _on_error(self, error: KafkaError) -> None:
        tell = self._fatal if error.fatal() or error.code() == KafkaError._FATAL else _client_log.warning
        tell(f"consumer: {error.str()}")

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        code = error.code()
        name = TopicPartition(message.topic() or "", message.partition() or 0)
        if code == KafkaError._PARTITION_EOF:
            self.unreadable.pop(name, None)
            self._post(EndReached(name, message.offset() or 0))
        elif code == KafkaError._AUTO_OFFSET_RESET:
            if name in self._assigned:
                self._skip_lost(name, message.offset() or 0, error)
        elif error.fatal() or code == KafkaError._FATAL:
            self._fatal(f"consumer: {error.str()}")
        else:
            if name in self._assigned:
                self.unreadable[name] = error.str()
            _client_log.warning(f"consumer: {name.topic}: {error.str()}")

    def _skip_lost(self, name: TopicPartition, offset: int, error: KafkaError) -> None:
        """The log does not have what is at `offset`: say so, count it, and go on where it can be read."""
        start, lost = self._positions.beside(self._consumer, name, offset)
        self.offset_loss[name.topic] = self.offset_loss.get(name.topic, 0) + lost
        log.error(
            "the log does not have the next offset; going on at another",
            extra={**name._asdict(), "next": offset, "lost": lost, "start": start, "error": error.str()},
        )
        self._restart(name, start, fresh=start < offset)

    def _restart(self, name: TopicPartition, start: int, *, fresh: bool) -> None:
        """Read from `start`. fresh: what was delivered and committed is of a log that is gone: a new assignment."""
        if fresh:
            self._post(Assigned([Assignment(name, start, None)]))
            self._paused.discard(name)
        # When the client has stopped it, a seek is refused; this starts it again and is nothing to the group.
        self._consumer.incremental_unassign([Position(*name)])
        self._consumer.incremental_assign([Position(*name, start)])
        if not self._held and name not in self._paused:  # a pause outlives an assignment in librdkafka
            self._consumer.resume([Position(*name)])
