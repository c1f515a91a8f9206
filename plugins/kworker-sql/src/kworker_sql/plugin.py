"""The plugin: task `sql.execute`, and how its settings become a database to execute on."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec

from kworker import ConfigError, Context, Plugin, Reject, Retry, task
from kworker_sql.settings import SqlSettings

Row = dict[str, str | int | float | bool | None]
"""The parameters of one execution, by name."""

_SPARE = 0.25
"""Seconds of the task's own time kept for the commit and what follows it."""


class Sql(Plugin):
    """Executes configured statements; a message chooses one by name, gives its parameters, and no more."""

    Settings: ClassVar[type[msgspec.Struct] | None] = SqlSettings

    def setup(self, settings: SqlSettings) -> None:
        """Read every statement, connect, and make `kworker_done` if it is needed. Raises ConfigError."""
        from kworker_sql.database import Database, prepare

        faults: list[str] = []
        self._statements = {
            name: ready
            for name, statement in settings.statements.items()
            if (ready := prepare(name, statement, faults)) is not None
        }
        try:
            self._database = Database(settings.read_url(), settings.pool_size, settings.pool_timeout)
        except ValueError as error:
            faults.append(f"plugins.sql: {error}")
        if faults:
            raise ConfigError(faults)
        try:
            self._database.check(with_done=any(each.idempotent for each in settings.statements.values()))
        except ValueError as error:
            self._database.close()
            raise ConfigError([f"plugins.sql: {error}"]) from error

    def teardown(self) -> None:
        """Close the connections that are kept."""
        self._database.close()

    @task("sql.execute")
    def execute(self, statement: str, parameters: Row | list[Row] | None = None, *, ctx: Context) -> dict[str, Any]:
        """Execute the statement named `statement`, in one transaction: once, or once for each of a list of parameters.

        Returns `{"changed", "rows", "truncated", "skipped"}`. Raises Reject for an unknown statement, parameters that
        are not the statement's, and what the database says of data; Retry for a database that is away or busy, and
        when the time is up; StatementFailedError for any other error of the database.
        """
        ready = self._statements.get(statement)
        if ready is None:
            raise Reject(f"statement: {statement[:40]!r} is none of [plugins.sql.statements]")
        rows = parameters if isinstance(parameters, list) else [parameters or {}]
        ready.check(rows)
        seconds = ready.statement.timeout
        if (remaining := ctx.remaining()) is not None:
            seconds = remaining - _SPARE if seconds is None else min(seconds, remaining - _SPARE)
        if ctx.cancelled or (seconds is not None and seconds <= 0):
            raise Retry("no time is left to execute a statement")
        until = None if seconds is None else time.monotonic() + seconds
        return self._database.run(ready, rows, task_id=ctx.id, until=until)
