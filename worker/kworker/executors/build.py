"""The executors that a configuration and its tasks call for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kworker.config import Config
from kworker.executors.base import Executor, Runnable, publication
from kworker.executors.children import Recycling
from kworker.executors.coroutines import CoroutineExecutor
from kworker.executors.messages import Limits, Loaded
from kworker.executors.processes import ProcessExecutor
from kworker.executors.threads import ThreadExecutor
from kworker.mailbox import Mailbox


def build(
    config: Config, tasks: Mapping[str, Runnable], mailbox: Mailbox, load: Callable[[], Loaded]
) -> dict[str, Executor]:
    """By kind, those that have a task. load: gives child processes their tasks."""
    makers: dict[str, Callable[[], Executor]] = {
        "thread": lambda: ThreadExecutor(config.concurrency, tasks, mailbox, publication),
        "coroutine": lambda: CoroutineExecutor(config.concurrency, tasks, mailbox, publication),
        "process": lambda: ProcessExecutor(
            config.processes,
            tasks,
            mailbox,
            load,
            limits=Limits(config.child_memory, config.child_cpu, config.child_files),
            recycling=Recycling(config.child_tasks, config.child_resident or 0),
        ),
    }
    needed = {task.spec.executor for task in tasks.values()}
    return {kind: make() for kind, make in makers.items() if kind in needed}
