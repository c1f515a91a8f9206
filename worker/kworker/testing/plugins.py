"""Plugins outside a worker: their tasks, their settings, and a Context to call a task's function with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from kworker.core.publication import message
from kworker.plugin import MARK, Context, Plugin, TaskSpec
from kworker.task import Headers, Publication, Task
from kworker.testing.records import START

SomePlugin = TypeVar("SomePlugin", bound=Plugin)


@contextmanager
def opened(plugin: type[SomePlugin] | SomePlugin, /, **settings: object) -> Iterator[SomePlugin]:
    """The plugin set up with these settings, checked as a worker checks them, and torn down at the end."""
    made = plugin() if isinstance(plugin, type) else plugin
    wanted = type(made).Settings
    made.setup(None if wanted is None else msgspec.convert(settings, wanted))
    try:
        yield made
    finally:
        made.teardown()


def context(
    task: str = "test",
    *,
    id: str | None = "test-0",
    attempt: int = 1,
    seconds: float | None = None,
    key: bytes | None = None,
    headers: Mapping[str, bytes] | None = None,
    topic: str = "tasks",
    offset: int = 0,
    published_at: float = START,
) -> Context:
    """A Context, to call a task as the function it is: `deliver(url, ctx=context(seconds=5))`.

    id: None for a record that brings none. seconds: until the deadline; None is no deadline. published_at: seconds
    since the epoch. What the function publishes is in `publications` of the Context.
    """
    given: Headers = [*(headers or {}).items()]
    made = Task(task, topic, 0, offset, key, None, given, round(published_at * 1000), given_id=id)
    return Context(made, attempt, None if seconds is None else time.monotonic() + seconds, publication)


def publication(task: str, payload: object, *, now: float = START, **attributes: Any) -> Publication:
    """What `ctx.publish()` makes of its arguments. now: seconds since the epoch."""
    return message(task, payload, **attributes, now=now)


def specs(plugins: tuple[object, ...], settings: Mapping[str, Mapping[str, Any]], stack: ExitStack) -> list[TaskSpec]:
    """The tasks of marked functions, Plugin instances or classes, and modules of them.

    settings: by class name. stack: tears down what was set up. Raises TypeError for others, and for two of a name.
    """
    found: list[TaskSpec] = []
    for plugin in plugins:
        if isinstance(plugin, Plugin) or (isinstance(plugin, type) and issubclass(plugin, Plugin)):
            cls = plugin if isinstance(plugin, type) else type(plugin)
            found += stack.enter_context(opened(plugin, **settings.get(cls.__name__, {}))).tasks()
        elif isinstance(plugin, ModuleType):
            found += [spec for member in vars(plugin).values() if (spec := marked(member)) is not None]
        else:
            spec = marked(plugin)
            if spec is None:
                raise TypeError(f"{plugin!r} is neither marked with @task nor a Plugin")
            found.append(spec)
    names: dict[str, TaskSpec] = {}
    for spec in found:
        if names.setdefault(spec.name, spec) is not spec:
            raise TypeError(f"two tasks are named {spec.name!r}")
    return found


def marked(member: object) -> TaskSpec | None:
    """The task that a function was marked as, if it was."""
    spec = getattr(member, MARK, None)
    return spec if isinstance(spec, TaskSpec) else None


def only_task(specs: list[TaskSpec]) -> str:
    """The name of the one task. Raises TypeError when there are several."""
    if len(specs) != 1:
        raise TypeError(f"which task? {', '.join(spec.name for spec in specs) or 'there is none'}: name it by task=")
    return specs[0].name
