"""What a plugin author writes against: `@task`, `@schedule`, `Plugin`, `Context`.

A task is a plain function (or a method of a `Plugin`) marked with `@task`; it stays callable as it was written:

    @task("thumbnail", timeout="30s")
    def thumbnail(path: str, width: int = 320, *, ctx: Context) -> None: ...
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import structs

from kworker.duration import seconds
from kworker.schedules.given import Faults, read
from kworker.schedules.schedule import Schedule
from kworker.task import Publication, Task

if TYPE_CHECKING:
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

ExecutorKind = Literal["thread", "process", "coroutine"]
Function = TypeVar("Function", bound=Callable[..., Any])
Schema = str | Mapping[str, Any]
"""An Avro schema, as JSON has it: the name of a type, or an object."""

MARK = "__kworker_task__"
SCHEDULES = "__kworker_schedules__"
DEFAULT_TIMEOUT = 300.0
DEFAULT_MAX_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """Everything `@schedule` says of one schedule. name: '' is the task's. topic: '' is the first that the worker reads
    by name. plan: the rest, under names that stand for these."""

    name: str
    topic: str
    plan: Schedule

    def of(self, task: str, topic: str, source: str) -> Schedule:
        """The schedule, for this task; topic: the worker's. Raises ValueError when it has no name that can be one."""
        return structs.replace(self.plan, name=self.name or task, task=task, topic=self.topic or topic, source=source)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Everything `@task` says of one task.

    timeout: seconds; 0 means none. max_attempts: runs before it is a dead letter. wait, stop: tenacity strategies
    that replace the default back-off and limit. concurrency: how many may run at once in one worker; None is as
    many as there are slots. schema: the Avro schema of the arguments; of several the last is the task's own, the others
    are those that older publishers write by. needs_settings: False for a task of a `Plugin` that works without its
    settings. retry_in_memory: seconds that a retry may wait in memory, longer ones wait in the delay log; None is as
    the worker is told. schedules: those of `@schedule`, in the order they are written.
    """

    name: str
    function: Callable[..., Any]
    executor: ExecutorKind
    timeout: float = DEFAULT_TIMEOUT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    wait: wait_base | None = None
    stop: stop_base | None = None
    concurrency: int | None = None
    schema: Schema | Sequence[Schema] | None = None
    reply_to: str | None = None
    needs_settings: bool = True
    retry_in_memory: float | None = None
    schedules: tuple[ScheduleSpec, ...] = ()

    def bind(self, owner: object) -> TaskSpec:
        """The same task with its function bound to `owner`, as a method is."""
        return replace(self, function=self.function.__get__(owner))


def task(
    name: str,
    *,
    executor: ExecutorKind | None = None,
    timeout: float | str = DEFAULT_TIMEOUT,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    wait: wait_base | None = None,
    stop: stop_base | None = None,
    concurrency: int | None = None,
    schema: Schema | Sequence[Schema] | None = None,
    reply_to: str | None = None,
    needs_settings: bool = True,
    retry_in_memory: float | str | None = None,
) -> Callable[[Function], Function]:
    """Mark a function as the task `name`; the function itself is returned unchanged.

    `def` runs in a thread, `async def` as a coroutine, unless `executor` says otherwise.
    Raises ValueError for a name, timeout or limit that cannot be meant.
    """
    if not name or len(name) > 200 or not name.isprintable() or name.startswith("_"):
        raise ValueError(f"@task: {name[:40]!r} is not a task name: 1 to 200 printable characters, no leading '_'")
    if max_attempts < 1:
        raise ValueError(f"@task({name!r}): max_attempts must be 1 or more")
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"@task({name!r}): concurrency must be 1 or more")

    def mark(function: Function) -> Function:
        kind: ExecutorKind = executor or ("coroutine" if inspect.iscoroutinefunction(function) else "thread")
        if kind == "thread" and inspect.iscoroutinefunction(function):
            raise ValueError(f"@task({name!r}): an async function cannot run in a thread")
        spec = TaskSpec(
            name=name,
            function=function,
            executor=kind,
            timeout=seconds(timeout),
            max_attempts=max_attempts,
            wait=wait,
            stop=stop,
            concurrency=concurrency,
            schema=schema,
            reply_to=reply_to,
            needs_settings=needs_settings,
            retry_in_memory=None if retry_in_memory is None else seconds(retry_in_memory),
            schedules=getattr(function, SCHEDULES, ()),
        )
        setattr(function, MARK, spec)
        return function

    return mark


def schedule(
    *,
    cron: str | None = None,
    tz: str | None = None,
    every: float | str | None = None,
    name: str | None = None,
    payload: object = None,
    topic: str | None = None,
    key: str | None = None,
    jitter: float | str | None = None,
    misfire: Literal["once", "all", "skip"] | None = None,
    most: int | None = None,
) -> Callable[[Function], Function]:
    """Have the task of this function published at its times; beside `@task`, above or below it, and as often as needed:

        @schedule(cron="0 3 * * *", tz="Europe/Berlin")
        @task("report.build")
        def build(days: int = 1) -> None: ...

    A worker that offers the task puts the schedule into the delay log when it starts. cron: minute hour day-of-month
    month day-of-week, in the time zone `tz` (UTC unless given). every: seconds, or `"10m"`, a second or more. name: the
    task's unless given. topic: the first that the worker reads by name unless given. payload, key: of the message.
    jitter, misfire, most: as for `Client.schedules.add`. The function itself is returned unchanged.
    Raises ValueError with all that is wrong.
    """
    given = {"cron": cron, "tz": tz, "every": every, "payload": payload, "topic": topic, "key": key}
    given |= {"jitter": jitter, "misfire": misfire, "most": most, "task": "task"}
    try:
        plan = read(name or "schedule", given, now=time.time())
    except Faults as error:
        raise ValueError(f"@schedule: {error}") from None
    spec = ScheduleSpec(name or "", topic or "", plan)

    def mark(function: Function) -> Function:
        specs = (spec, *getattr(function, SCHEDULES, ()))
        setattr(function, SCHEDULES, specs)
        marked = getattr(function, MARK, None)
        if isinstance(marked, TaskSpec):
            setattr(function, MARK, replace(marked, schedules=specs))
        return function

    return mark


class Plugin:
    """A group of tasks that share settings and a lifetime.

    Subclass it, write tasks as methods, and name the class in the entry point. `Settings` is a msgspec.Struct;
    it is filled from `[plugins.<entry point>]` of kworker.toml. Without that table, and when `Settings` has a
    field that must be given, `setup` is not called and only tasks with `needs_settings=False` are offered.
    """

    Settings: ClassVar[type[msgspec.Struct] | None] = None

    def setup(self, settings: Any) -> None:
        """Called once in each process that runs its tasks, before the first; import heavy libraries here."""

    def teardown(self) -> None:
        """Called once at the stop of the worker, after the last task."""

    def tasks(self) -> list[TaskSpec]:
        """The tasks of this plugin, bound to it, in the order they were written."""
        specs: dict[str, TaskSpec] = {}
        for cls in reversed(type(self).__mro__):
            for attribute, member in vars(cls).items():
                spec = getattr(member, MARK, None)
                if isinstance(spec, TaskSpec):
                    specs[attribute] = spec.bind(self)
                else:
                    specs.pop(attribute, None)  # overridden by something that is no task
        return list(specs.values())


class Context:
    """What a running task may know and do; made for each attempt, passed as the keyword argument `ctx`."""

    __slots__ = ("_cancelled", "_publications", "_publish", "_task", "attempt", "deadline")

    def __init__(
        self,
        task: Task,
        attempt: int,
        deadline: float | None,
        publish: Callable[..., Publication] | None = None,
    ) -> None:
        self._task = task
        self._publish = publish
        self._publications: list[Publication] = []
        self._cancelled = False
        self.attempt = attempt
        """Which run this is: 1 for the first."""
        self.deadline = deadline
        """`time.monotonic()` at which this attempt times out, or None."""

    @property
    def id(self) -> str:
        """The task's id: your idempotency key (kworker does not de-duplicate)."""
        return self._task.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self._task.name

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        return self._task.key

    @property
    def headers(self) -> dict[str, bytes | None]:
        """The record's headers; of duplicates the last counts. The attributes of a CloudEvents envelope are among
        them, as `ce_<name>`."""
        return {**dict(self._task.headers), **(self._task.attributes or {})}

    @property
    def topic(self) -> str:
        """The topic the record was read from."""
        return self._task.topic

    @property
    def partition(self) -> int:
        """The partition the record was read from."""
        return self._task.partition

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self._task.offset

    @property
    def published_at(self) -> float:
        """When the record was published: seconds since the epoch."""
        return self._task.timestamp / 1000

    @property
    def content_type(self) -> str:
        """The payload's content type as the publisher gave it, or ''."""
        return self._task.content_type

    @property
    def value(self) -> bytes | None:
        """The payload's bytes as they came."""
        return self._task.value

    @property
    def cancelled(self) -> bool:
        """True once the attempt should end: its deadline passed, or its partition went to another worker."""
        return self._cancelled

    def cancel(self) -> None:
        """Set `cancelled`: called by the executor."""
        self._cancelled = True

    def remaining(self) -> float | None:
        """Seconds until the deadline (never below 0), or None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the task's name, id, attempt and place."""
        task = self._task
        return logging.LoggerAdapter(
            logging.getLogger(f"kworker.task.{task.name}"),
            {
                "task": task.name,
                "id": task.id,
                "attempt": self.attempt,
                "topic": task.topic,
                "partition": task.partition,
                "offset": task.offset,
            },
        )

    def publish(
        self,
        task: str,
        payload: object = None,
        *,
        topic: str | None = None,
        key: str | bytes | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> None:
        """Queue a message that is sent if this attempt succeeds; its offset completes only when it is acknowledged.

        `topic`: the topic of this task unless given. `payload`: anything JSON can hold, or bytes as they are.
        `id`: unless given, this task's id and a running number, so that a second run publishes the same ids.
        """
        if self._publish is None:
            raise RuntimeError("publish() is not available in this context")
        number = len(self._publications) + 1
        self._publications.append(
            self._publish(
                task,
                payload,
                topic=topic or self._task.topic,
                key=key,
                id=id or f"{self.id}/{number}",
                headers=headers,
            )
        )

    @property
    def publications(self) -> tuple[Publication, ...]:
        """What `publish()` has queued so far."""
        return tuple(self._publications)
