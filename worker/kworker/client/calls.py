"""A call: a message that asks for its result, and what becomes of the answer, of none, and of a dead letter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kworker.client.message import Composed, Message, Published, compose
from kworker.codecs.json import check, refusal
from kworker.codecs.limits import Limits
from kworker.core.reply import LONGEST_ID, Answer, Awaited, Returned
from kworker.duration import seconds
from kworker.errors import CallError, CallTimeout, DecodeError, TaskFailed
from kworker.kafka.sender import Sender
from kworker.task import DEAD_LETTER_SUFFIX

if TYPE_CHECKING:
    from kworker.kafka.replies import Replies

Sent = Future[Published] | asyncio.Future[Published]

_JSON = "application/json"
_REPLY_TO = "ce_replyto"
_LIMITS = Limits()


class Call(Struct, frozen=True):
    """One call. limit: seconds it may take; deadline: when that is, by the monotonic clock."""

    message: Composed
    awaited: Awaited
    limit: float
    deadline: float

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.deadline - time.monotonic())

    def late(self, sent: Sent | None, sender: Sender, replies: Replies) -> CallTimeout:
        """Nothing came in time: how far it got, and what to look at."""
        within, topic = f"within {self.limit:g} s", self.awaited.reply_topic
        if sent is None:
            complaint = _told(sender.complaint or replies.complaint)
            why = f"was not called: the reply topic {topic!r} could not be read {within}{complaint}"
        elif not sent.done():
            why = f"has no result {within}{_told(sender.complaint)}; it may be published, and run, all the same"
        else:
            why = (
                f"has no result {within}: it is at {sent.result()}, and may still run; "
                f"is there a worker, and does it allow --reply-topic {topic}?"
            )
        return CallTimeout(f"{self.awaited.task!r} {why}", id=self.awaited.id)

    def failed(self, sent: Sent | None, error: CallError) -> CallError:
        """The same error, saying which task it was, and whether it was sent."""
        became = "was not called" if sent is None else "has no result"
        return CallError(f"{self.awaited.task!r} {became}: {error}", id=self.awaited.id)

    def result(self, answer: Answer) -> Any:
        """What the task returned: JSON decoded, any other type as bytes. Raises TaskFailed or CallError."""
        task, id, topic = self.awaited.task, self.awaited.id, self.awaited.dead_letters
        if isinstance(answer, Returned):
            try:
                return _decoded(answer)
            except DecodeError as error:
                raise CallError(f"the result of {task!r} cannot be read: {error}", id=id) from error
        reason, kind, said = answer.reason, answer.error, answer.message
        raise TaskFailed(
            f"{task!r} failed for good, {reason} ({kind}): {said}; it is in {topic}",
            id=id,
            reason=reason,
            error_type=kind,
            error_message=said,
            topic=topic,
        )


def prepare(
    message: Message,
    topic: str,
    reply_topic: str | None,
    dead_letters: str | None,
    limit: float | str,
    *,
    tracing: bool = False,
) -> Call:
    """The call of a message. topic: where it goes if it names none. Raises ValueError or TypeError."""
    given: Mapping[str, str | bytes] = message.headers or {}
    if not reply_topic:
        raise ValueError(
            f"cannot call {message.task!r}: name a reply topic that its workers allow by --reply-topic: "
            "Client(..., reply_topic=) or call(..., reply_to=)"
        )
    if _REPLY_TO in given:
        raise ValueError(f"cannot call {message.task!r}: kworker sets the header {_REPLY_TO!r} itself; give reply_to=")
    composed = compose(replace(message, headers={**given, _REPLY_TO: reply_topic}), topic, tracing=tracing)
    if len(composed.id.encode()) > LONGEST_ID:
        raise ValueError(f"cannot call {message.task!r}: its id is longer than {LONGEST_ID} bytes")
    if dead_letters is None:
        dead_letters = composed.publication.topic + DEAD_LETTER_SUFFIX
    try:
        within = seconds(limit)
    except ValueError as error:
        raise ValueError(f"cannot call {message.task!r}: timeout: {error}") from None
    awaited = Awaited(composed.id, message.task, reply_topic, dead_letters)
    return Call(composed, awaited, within, time.monotonic() + within)


def pass_on(answer: Future[Answer], sent: Sent) -> None:
    """A message that was not acknowledged has no answer: its caller need not wait for one."""
    if not sent.cancelled() and (error := sent.exception()) is not None:
        with suppress(InvalidStateError):  # answered all the same, or given up
            answer.set_exception(error)


def _decoded(returned: Returned) -> object:
    value = returned.value
    if value is None:
        return None
    kind = returned.content_type.partition(";")[0].strip().lower()
    if kind != _JSON and not kind.endswith("+json"):
        return value
    check(value, _LIMITS)
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise refusal(error, value) from error


def _told(complaint: str) -> str:
    return f" ({complaint})" if complaint else ""
