"""The database side: one engine for all threads, a transaction for each task, and the time it has.

A statement is bound, never built: the only SQL that reaches a driver is that of the settings. Nothing is committed
after its time, and a task counts as done only by what was committed together with it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import Column, Connection, CursorResult, DateTime, String, Table, TextClause
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from kworker import Reject, Retry
from kworker_sql.settings import Statement
from kworker_sql.verdict import judge, why

DONE = Table(
    "kworker_done",
    sqlalchemy.MetaData(),
    Column("id", String(512), primary_key=True),
    Column("statement", String(100), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=sqlalchemy.func.now()),
)
"""The task ids that have counted, each for the statement that it named."""

TASK_ID = "kworker_id"
"""The parameter that stands for the task's id."""

_BATCH = 100
"""Executions between two looks at the clock."""

_LIBPQ = {
    "application_name": "kworker-sql",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""PostgreSQL's defaults would wait hours for a host that vanished; the URL may say otherwise."""

_NO_URL = (
    "url: not like postgresql+psycopg://user:password@host:5432/database"
    " (in the password, percent-encode what is no letter or digit)"
)
_LIMIT = sqlalchemy.text("SELECT set_config('statement_timeout', :limit, true)")
_LONGEST = 2**31 - 1
_STEPS = 10_000
"""SQLite's steps between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A statement that was read. names: the parameters that a message gives."""

    name: str
    statement: Statement
    clause: TextClause
    names: frozenset[str]
    wants_id: bool

    def check(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Raise Reject for parameters that are not those of the statement."""
        if not rows or (len(rows) > 1 and self.statement.kind == "query"):
            raise Reject(f"parameters: a list of {len(rows)}: {self.name} takes {self._takes()}")
        for index, row in enumerate(rows):
            if row.keys() != self.names:
                given = ", ".join(sorted(row))[:200]
                wanted = ", ".join(sorted(self.names)) or "none"
                raise Reject(f"parameters: set {index + 1} holds {given or 'none'}; {self.name} takes {wanted}")

    def _takes(self) -> str:
        return "one set, it is a query" if self.statement.kind == "query" else "at least one set"


def prepare(name: str, statement: Statement, faults: list[str]) -> Ready | None:
    """Read a statement of the settings; findings are added to `faults`, one line each."""
    where = f"plugins.sql: statements.{name}"
    if statement.kind == "query" and statement.idempotent:
        faults.append(f"{where}: idempotent: a query changes nothing: leave it out")
        return None
    clause = sqlalchemy.text(statement.sql)
    names = frozenset(clause.compile().params)
    return Ready(name, statement, clause, names - {TASK_ID}, TASK_ID in names)


class Database:
    """One database; used by many threads at once. Raises ValueError, one line, when `url` cannot be used."""

    def __init__(self, url: str, pool_size: int, pool_timeout: float) -> None:
        self._engine = _engine(url, pool_size)
        # The pool could wait only as long for every task: the semaphore waits as long as each has time.
        self._free = threading.BoundedSemaphore(pool_size)
        self._patience = pool_timeout

    def check(self, *, with_done: bool) -> None:
        """Connect, and make `kworker_done` if it is missing. Raises ValueError, one line, when that fails."""
        try:
            with self._engine.connect() as connection:
                missing = with_done and not sqlalchemy.inspect(connection).has_table(DONE.name)
        except DBAPIError as error:
            raise ValueError(f"url: the database cannot be used: {why(error)}") from None
        if not missing:
            return
        try:
            DONE.create(self._engine, checkfirst=True)
        except DBAPIError as error:
            if not sqlalchemy.inspect(self._engine).has_table(DONE.name):  # else another worker was faster
                fault = f"the table {DONE.name} cannot be created, see the README for its DDL: {why(error)}"
                raise ValueError(fault) from None

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()

    def run(
        self, ready: Ready, rows: Sequence[Mapping[str, object]], *, task_id: str, until: float | None
    ) -> dict[str, Any]:
        """Execute a statement for each set of parameters, all in one transaction; returns what the task returns.

        until: `time.monotonic()` after which nothing is committed. Raises what `judge` says.
        """
        if ready.wants_id:
            rows = [{**row, TASK_ID: task_id} for row in rows]
        with self._connection(until) as connection:
            try:
                if ready.statement.idempotent and not _claim(connection, ready.name, task_id, until):
                    return _outcome(skipped=True)
                outcome = _execute(connection, ready, rows, until)
                if ready.statement.kind == "execute":
                    _left(until)
                    connection.commit()
            except (DBAPIError, OverflowError, UnicodeError) as error:
                raise judge(error) from error
        return outcome

    @contextlib.contextmanager
    def _connection(self, until: float | None) -> Iterator[Connection]:
        left = _left(until)
        if not self._free.acquire(timeout=self._patience if left is None else min(left, self._patience)):
            raise Retry("no connection of the pool became free in time")
        try:
            try:
                connection = self._engine.connect()
            except DBAPIError as error:
                raise judge(error) from error
            with connection:  # what was not committed is rolled back
                yield connection
        finally:
            self._free.release()


def _engine(text: str, pool_size: int) -> sqlalchemy.Engine:
    try:
        url = sqlalchemy.make_url(text)
        dialect = url.get_dialect()
    except NoSuchModuleError:
        raise ValueError("url: SQLAlchemy knows no such database or driver: is its package installed?") from None
    except (ArgumentError, ValueError):  # their text may hold parts of a password
        raise ValueError(_NO_URL) from None
    if dialect.name != "sqlite" and "@" in f"{url.host}{url.database}":  # the rest of a password, and an error shows it
        raise ValueError(_NO_URL)
    if dialect.is_async:
        raise ValueError(f"url: {dialect.driver} is an async driver: name another, such as psycopg")
    in_memory = url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"
    if dialect.name == "sqlite" and in_memory:
        raise ValueError("url: a database in memory is one for each thread: name a file, sqlite:////path/to/file")
    libpq = {key: value for key, value in _LIBPQ.items() if key not in url.query}
    try:
        return sqlalchemy.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args=libpq if dialect.driver in ("psycopg", "psycopg2") else {},
        )
    except ImportError as error:
        raise ValueError(f"url: the driver of {url.drivername} is not installed: {error}") from None


def _left(until: float | None) -> float | None:
    """Seconds until then. Raises Retry when there are none."""
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise Retry("the time was up before the statement was done: nothing was committed")
    return left


def _claim(connection: Connection, statement: str, task_id: str, until: float | None) -> bool:
    """Write that the task is done; False when it was before. Another run of it that is not finished is waited for."""
    key = {"id": task_id, "statement": statement}
    _limit(connection, until)
    try:
        connection.execute(DONE.insert().values(key))
    except IntegrityError:
        connection.rollback()
        if connection.execute(sqlalchemy.select(DONE.c.id).filter_by(**key)).first() is None:
            raise
        return False
    return True


def _execute(
    connection: Connection, ready: Ready, rows: Sequence[Mapping[str, object]], until: float | None
) -> dict[str, Any]:
    if len(rows) == 1:
        _limit(connection, until)
        options = {"stream_results": ready.statement.kind == "query"}  # not the whole answer into memory
        result = connection.execute(ready.clause, rows[0], execution_options=options)
        return _read(result, ready.statement)
    changed = 0
    for start in range(0, len(rows), _BATCH):
        _limit(connection, until)
        changed += max(connection.execute(ready.clause, rows[start : start + _BATCH]).rowcount, 0)
    return _outcome(changed)


def _limit(connection: Connection, until: float | None) -> None:
    """Have the database end what follows in time, where it can."""
    left = _left(until)
    milliseconds = None if left is None else min(math.ceil(left * 1000), _LONGEST)
    if connection.dialect.name == "postgresql" and milliseconds is not None:
        connection.execute(_LIMIT, {"limit": str(milliseconds)})
    elif connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout = {_LONGEST if milliseconds is None else milliseconds}")
        driver.set_progress_handler(None if until is None else lambda: time.monotonic() > until, _STEPS)


def _read(result: CursorResult[Any], statement: Statement) -> dict[str, Any]:
    changed = max(result.rowcount, 0) if statement.kind == "execute" else 0
    if not result.returns_rows:
        return _outcome(changed)
    with contextlib.closing(result):  # it may have more rows, and a cursor on the server
        rows = [dict(row) for row in result.mappings().fetchmany(statement.max_rows + 1)]
    kept = msgspec.to_builtins(rows[: statement.max_rows], str_keys=True, enc_hook=str)
    return _outcome(changed, kept, truncated=len(rows) > statement.max_rows)


def _outcome(
    changed: int = 0, rows: Sequence[object] = (), *, truncated: bool = False, skipped: bool = False
) -> dict[str, Any]:
    return {"changed": changed, "rows": list(rows), "truncated": truncated, "skipped": skipped}
