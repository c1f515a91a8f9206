"""Every exception of kworker, drawn once.

KworkerError
├── ConfigError        the configuration cannot be used       exit code 2
├── FatalKafkaError    a Kafka client cannot go on            exit code 3
├── PluginError        a plugin could not be loaded           exit code 5
├── PublishError       a message was not acknowledged         (client)
├── DelayError         the delay log cannot be used           (client)
├── CallError          a call has no result                   (client)
│   ├── TaskFailed     its task became a dead letter
│   └── CallTimeout    none came in time; a TimeoutError too
├── DecodeError        a record that cannot become a task     (a value: returned, then dead-lettered)
├── Unavailable        what a payload needs to be read is not there now; the task waits for it
├── Reject             raised by a plugin: never try again
└── Retry              raised by a plugin: try again after a wait
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kworker.client import Published
    from kworker.task import Reason


class KworkerError(Exception):
    """Base of all errors of kworker."""

    exit_code = 1


class ConfigError(KworkerError):
    """The configuration cannot be used. `faults` holds every finding, one line each."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class FatalKafkaError(KworkerError):
    """A Kafka client reported an error after which it cannot be used; the process must end."""

    exit_code = 3


class PluginError(KworkerError):
    """A plugin could not be loaded: what is wrong, where, and what to do."""

    exit_code = 5


class PublishError(KworkerError):
    """A published message was not acknowledged by the broker.

    `id` is the message's id: publish it again with the same one, since it may have been written after all.
    `results` comes from `publish_many`: one a message, in order, a `Published` or that message's `PublishError`.
    """

    def __init__(
        self, message: str, *, id: str | None = None, results: Sequence[Published | PublishError] = ()
    ) -> None:
        super().__init__(message)
        self.id = id
        self.results = list(results)


class DelayError(KworkerError):
    """The delay log cannot be used, or nobody answered a request to cancel a task there."""


class CallError(KworkerError):
    """A call has no result. `id` is its task's id; the task may still run, unless the message says otherwise."""

    def __init__(self, message: str, *, id: str | None = None) -> None:
        super().__init__(message)
        self.id = id


class TaskFailed(CallError):
    """The called task was set aside for good.

    `reason` is the dead letter's (`rejected`, `exhausted`, `invalid` ...), `error_type` the type of the exception or
    the finer cause, `error_message` what it said. The task is in the dead-letter topic `topic`.
    """

    def __init__(self, message: str, *, id: str, reason: str, error_type: str, error_message: str, topic: str) -> None:
        super().__init__(message, id=id)
        self.reason = reason
        self.error_type = error_type
        self.error_message = error_message
        self.topic = topic


class CallTimeout(CallError, TimeoutError):
    """No result came in time. The task may have been published, and may still run."""


class DecodeError(KworkerError):
    """A record, or its payload, cannot be read.

    `reason` is the dead letter's closed reason, `code` the finer cause (`too_deep`, `number`,
    `schema`, `unknown_task` ...) that travels as `kworker-error-type` (WIRE.md).
    """

    def __init__(self, reason: Reason, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


class Unavailable(KworkerError):
    """What a payload needs to be read, such as the answer of a schema registry, is not there now.

    Raised while a task's arguments are made: the task waits `after` seconds, and no attempt is counted.
    """

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class Reject(KworkerError):
    """Raise it in a task that can never succeed: the record becomes a dead letter `rejected` at once."""

    def __init__(self, why: str = "rejected by the task") -> None:
        super().__init__(why)


class Retry(KworkerError):
    """Raise it in a task to try again later.

    `after`: seconds to wait, or a duration like `"30s"`; None leaves the wait to the task's retry policy.
    The attempt counts: after the last one the record becomes a dead letter `exhausted`.
    """

    def __init__(self, why: str = "retry asked for by the task", *, after: float | str | None = None) -> None:
        from kworker.duration import seconds

        super().__init__(why)
        self.after = None if after is None else seconds(after)
