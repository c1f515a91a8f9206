"""What calls wait for: one thread with one Consumer reads reply topics and dead-letter topics from their ends.

Promises: once `follow` is done, no answer to a task published after it is missed, and partitions that are added later
are read from their start. Nothing is committed and no group is joined. Only calls that wait are remembered, and only
their answers kept; every call gets one, or the fault for which there will be none. Nobody else touches the Consumer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # public, but its types do not re-export it

from kworker.config import Config
from kworker.core.reply import Answer, Awaited, answer
from kworker.errors import CallError, ConfigError
from kworker.kafka.commands import create_command
from kworker.kafka.settings import consumer_settings
from kworker.task import Record

REFRESH = 10.0
"""Seconds after which a topic's new partitions are noticed, while calls wait."""

_POLL, _ASK = 0.1, 2.0  # seconds: how long a command may wait for a poll, and one question to the broker
_CHUNK = 500
_LATEST = -1  # the timestamp that stands for the end of the log
_SETTINGS = {
    "auto.offset.reset": "earliest",  # what lies before the topic was made anew, or cut, is nobody's answer any more
    "enable.partition.eof": "false",
    "fetch.wait.max.ms": "100",  # a topic that is read from now on waits for the fetch of others that is on its way
    "queued.min.messages": "1000",
    "queued.max.messages.kbytes": "16384",  # with it memory is bounded, whatever others write there
    "log_level": "2",
}
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION)  # asking again does not help
_VAGUE = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)
_CLOSED = "the client was closed"
_Result = TypeVar("_Result")
_LOG = logging.getLogger("kworker.client")


class _Follow(NamedTuple):
    """Read these topics from now on; `done` when it is so. dead_letters: '' for none. deadline: monotonic seconds."""

    reply_topic: str
    dead_letters: str
    deadline: float
    done: Future[None]


class Replies:
    """See the module. Threads share it; thread and Consumer are made by the first `follow`, after any fork."""

    def __init__(self, bootstrap: str, kafka: Mapping[str, str]) -> None:
        self.complaint = ""
        """What the client said last of a broker it could not reach."""
        self._bootstrap = bootstrap
        self._kafka = kafka
        self._lock = threading.Lock()  # over what ends: nothing may begin to wait when nobody will answer
        self._thread: threading.Thread | None = None
        self._end = ""  # why it ended
        self._stop = threading.Event()
        self._commands: SimpleQueue[_Follow] = SimpleQueue()
        self._waiting: dict[str, tuple[Awaited, Future[Answer]]] = {}
        self._followed: frozenset[tuple[str, str]] = frozenset()
        self._partitions: dict[str, set[int]] = {}  # of each topic that is read; none of one that is missing so far
        self._next_look = 0.0

    # -- any thread -----------------------------------------------------------------------------------------------

    def follow(self, reply_topic: str, dead_letters: str, deadline: float) -> Future[None]:
        """Done when both topics are read; the broker is asked until `deadline` (by the monotonic clock).

        It fails with CallError when the reply topic is missing or may not be read. A dead-letter topic that is missing
        is read once it is there. Raises ConfigError for properties that the Kafka client does not take.
        """
        done: Future[None] = Future()
        with self._lock:
            self._check()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._connect(),), name="kworker-replies", daemon=True
                )
                self._thread.start()
            if (reply_topic, dead_letters) in self._followed:
                done.set_result(None)
            else:
                self._commands.put(_Follow(reply_topic, dead_letters, deadline, done))
        return done

    @contextmanager
    def expect(self, awaited: Awaited) -> Iterator[Future[Answer]]:
        """The answer to a call, when it comes; to be opened before `follow`, so that a refusal
        in between is heard, and before the task is published. Nothing is left of it.
        """
        future: Future[Answer] = Future()
        with self._lock:
            self._check()
            if awaited.id in self._waiting:
                raise ValueError(f"another call of this client waits for the task with the id {awaited.id!r}")
            self._waiting[awaited.id] = (awaited, future)
        try:
            yield future
        finally:
            self._waiting.pop(awaited.id, None)

    def close(self) -> None:
        """End the thread and the Consumer; calls that still wait fail."""
        self._stop.set()
        with self._lock:
            if self._thread is None:
                self._end = _CLOSED
                return
        self._thread.join()

    def _check(self) -> None:
        if self._end:
            raise CallError(self._end)

    def _connect(self) -> Consumer:
        settings = consumer_settings(Config(bootstrap=self._bootstrap, group="kworker-replies", kafka=self._kafka))
        try:
            return Consumer({**settings, **_SETTINGS, "logger": _LOG, "error_cb": self._complain})
        except (KafkaException, TypeError, ValueError) as error:
            cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise ConfigError([f"the Kafka client does not take these properties: {cause}"]) from error

    # -- its own thread -------------------------------------------------------------------------------------------

    def _run(self, consumer: Consumer) -> None:
        self._consumer = consumer
        why = _CLOSED
        try:
            while not self._stop.is_set():
                self._obey()
                first = self._consumer.poll(_POLL)
                for message in () if first is None else (first, *self._consumer.consume(_CHUNK, 0)):
                    self._hear(message)
                if self._waiting and time.monotonic() > self._next_look:
                    self._look()
        except Exception as error:
            _LOG.exception("the thread that reads replies ended")
            why = f"this client cannot read replies any more ({error}): make a new one"
        finally:
            self._finish(why)
            self._consumer.close()

    def _finish(self, why: str) -> None:
        with self._lock:
            self._end = why
        for _, future in list(self._waiting.values()):
            _fail(future, CallError(why))
        with suppress(Empty):
            while True:
                _fail(self._commands.get_nowait().done, CallError(why))

    def _obey(self) -> None:
        for _ in range(self._commands.qsize()):
            command = self._commands.get_nowait()
            if time.monotonic() > command.deadline:
                continue  # nobody waits for it any more
            try:
                self._follow(command)
            except CallError as error:
                _fail(command.done, error)
            except KafkaException as error:  # the broker is away, or has no leader yet: asked again in the next round
                self._complain(error.args[0])
                self._commands.put(command)
                return
            else:
                _settle(command.done, None)

    def _follow(self, command: _Follow) -> None:
        """Read the topics of a command, unless they are. Raises CallError, or KafkaException when it may work later."""
        reply_topic, dead_letters = command.reply_topic, command.dead_letters
        found: dict[str, set[int]] = {}
        if not self._partitions.get(reply_topic):
            found[reply_topic] = self._ask(reply_topic)
            if not found[reply_topic]:
                raise CallError(self._missing(reply_topic))
        if dead_letters and dead_letters not in self._partitions:
            try:
                found[dead_letters] = self._ask(dead_letters)
            except CallError as error:
                _LOG.warning("a task that fails for good is told of at its call's timeout only: %s", error)
                found[dead_letters] = set()
        self._read(found)
        self._followed |= {(reply_topic, dead_letters)}

    def _ask(self, topic: str) -> set[int]:
        """The partitions of a topic, none when it is missing. Raises CallError, or KafkaException."""
        error = None
        try:
            about = self._consumer.list_topics(topic, timeout=_ASK).topics[topic]
        except KafkaException as failure:
            error = failure.args[0]
        else:
            error = about.error
        if error is None:
            return set(about.partitions)
        if error.code() in _ABSENT:
            return set()
        if error.code() in _REFUSED:
            raise CallError(f"the topic {topic!r} cannot be read: {error.str()}")
        raise KafkaException(error)

    def _read(self, found: Mapping[str, set[int]]) -> None:
        """Read partitions: of topics that are new here from their ends, others from their start. Raises KafkaException.

        A partition that was not there when its topic was looked at last holds nothing older than that.
        """
        added = {topic: numbers - self._partitions.get(topic, set()) for topic, numbers in found.items()}
        places = [Position(topic, number, OFFSET_BEGINNING) for topic in added for number in sorted(added[topic])]
        ends = [
            Position(place.topic, place.partition, _LATEST) for place in places if place.topic not in self._partitions
        ]
        if ends:
            # Order: asked for now, not by the Consumer at its first fetch: the answer may be there before that.
            ends = self._consumer.offsets_for_times(ends, timeout=_ASK)
            for place in ends:
                if place.error is not None:
                    raise KafkaException(place.error)
        if places:
            starts = [place for place in places if place.topic in self._partitions]
            self._consumer.incremental_assign(starts + ends)
        for topic, numbers in added.items():
            self._partitions.setdefault(topic, set()).update(numbers)

    def _look(self) -> None:
        """Read partitions that were added, and dead-letter topics that were made."""
        for topic in list(self._partitions):
            try:
                self._read({topic: self._ask(topic)})
            except CallError:
                continue  # it was told when it was asked for first
            except KafkaException as error:
                self._complain(error.args[0])
                break  # the others would be waited for as long
        self._next_look = time.monotonic() + REFRESH

    def _hear(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                self._refuse(message.topic() or "", error)
            return  # others pass: librdkafka goes on by itself
        heard = answer(cast(Record, message), self._awaited)
        if heard is not None and (waiting := self._waiting.get(heard[0].id)) is not None:
            _settle(waiting[1], heard[1])  # a second answer, after a crash of its worker, finds it settled

    def _awaited(self, id: str) -> Awaited | None:
        waiting = self._waiting.get(id)
        return waiting and waiting[0]

    def _refuse(self, topic: str, error: KafkaError) -> None:
        """The topic may be asked about but not read: told once to all who wait, and again to the next that does."""
        why = f"the topic {topic!r} cannot be read: {error.str()}"
        _LOG.warning("%s", why)
        if not any(topic == pair[0] for pair in self._followed):
            return  # dead letters only
        numbers = self._partitions.pop(topic, set())
        self._consumer.incremental_unassign([Position(topic, number) for number in numbers])
        self._followed = frozenset(pair for pair in self._followed if topic not in pair)
        for awaited, future in list(self._waiting.values()):
            if awaited.reply_topic == topic:
                _fail(future, CallError(why))

    def _complain(self, error: KafkaError) -> None:
        if error.code() not in _VAGUE:
            self.complaint = error.str()

    def _missing(self, topic: str) -> str:
        plan = NewTopic(topic, num_partitions=3, config={"retention.ms": "3600000"})
        command = create_command(self._bootstrap, self._kafka, plan)
        return f"the reply topic {topic!r} does not exist; create it with: {command}"


def _settle(future: Future[_Result], result: _Result) -> None:
    with suppress(InvalidStateError):  # who waited has been cancelled
        future.set_result(result)


def _fail(future: Future[_Result], error: CallError) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
