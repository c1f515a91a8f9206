"""`sql.execute` on SQLite: what is bound, what is committed, what counts once, what an error leads to."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kworker import ConfigError, Reject, Retry, testing
from kworker.task import Reason, Refused
from kworker.testing import opened, result_of, run_task
from kworker.testing_fixtures import MakeWorker
from kworker_sql import Sql, StatementFailedError

TABLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, note CHECK (note <> 'bad'))"
ADD = "INSERT INTO people (id, name, note) VALUES (:id, :name, :note)"
STATEMENTS: dict[str, dict[str, Any]] = {
    "add": {"sql": ADD},
    "add-once": {"sql": ADD, "idempotent": True},
    "add-more": {"sql": "INSERT INTO people (name) VALUES (:name || '!')", "idempotent": True},
    "returning": {"sql": "INSERT INTO people (name) VALUES (:a), (:b), (:c) RETURNING id, name", "max_rows": 1},
    "all": {"sql": "SELECT * FROM people ORDER BY id", "kind": "query", "max_rows": 3},
    "sneaky": {"sql": "DELETE FROM people RETURNING id", "kind": "query"},
    "id": {"sql": "UPDATE people SET note = :kworker_id"},
    "endless": {
        "sql": "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "timeout": 0.2,
    },
    "missing": {"sql": "INSERT INTO nowhere VALUES (1)"},
}
ADA: dict[str, Any] = {"id": 1, "name": "Ada", "note": None}
context = partial(testing.context, "sql.execute", id="msg_1", seconds=60)


def plugin_on(path: Path, **table: Any) -> AbstractContextManager[Sql]:
    return opened(Sql, **{"url": f"sqlite:///{path}", "statements": STATEMENTS, **table})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection:
        connection.execute(TABLE)
    return tmp_path / "db"


@pytest.fixture
def sql(file: Path) -> Iterator[Sql]:
    with plugin_on(file) as plugin:
        yield plugin


def rows(file: Path, query: str = "SELECT id, name, note FROM people ORDER BY id") -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def test_it_offers_one_task_whose_payload_is_json(file: Path) -> None:
    (spec,) = Sql().tasks()
    assert (spec.name, spec.executor, spec.needs_settings) == ("sql.execute", "thread", True)
    settings = {"url": f"sqlite:///{file}", "statements": STATEMENTS}
    people = [ADA, {"id": 2, "name": "Bob", "note": 1.5}]
    result_of(run_task(Sql, {"statement": "add", "parameters": people}, settings=settings))
    assert rows(file) == [(1, "Ada", None), (2, "Bob", 1.5)]
    refused = run_task(Sql, {"statement": "add", "parameters": {"id": []}}, settings=settings)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.INVALID
    assert typing.get_type_hints(spec.function)["statement"] is str


def test_parameters_are_bound_and_committed(sql: Sql, file: Path) -> None:
    outcome = sql.execute("add", ADA, ctx=context())
    assert outcome == {"changed": 1, "rows": [], "truncated": False, "skipped": False}
    assert rows(file) == [(1, "Ada", None)]


@pytest.mark.parametrize("text", ["'); DROP TABLE people; --", ":id", "%(id)s", "?", '"', "\\", "$1", "é\n\t"])
def test_nothing_of_a_message_is_sql(sql: Sql, file: Path, text: str) -> None:
    sql.execute("add", {"id": 1, "name": text, "note": text}, ctx=context())
    assert rows(file) == [(1, text, text)]


@pytest.mark.parametrize("name", ["other", "ADD", "add ", "", "SELECT 1", "DROP TABLE people"])
def test_an_unknown_statement_is_rejected(sql: Sql, name: str) -> None:
    with pytest.raises(Reject, match="none of"):
        sql.execute(name, ctx=context())


@pytest.mark.parametrize(
    ("statement", "parameters", "why"),
    [
        ("add", None, "holds none; add takes id, name, note"),
        ("add", {"id": 1}, "holds id; add takes id, name, note"),
        ("add", {**ADA, "more": 1}, "holds id, more, name, note"),
        ("add", [ADA, {}], "set 2 holds none"),
        ("add", [], "at least one set"),
        ("id", {"kworker_id": "forged"}, "holds kworker_id; id takes none"),
        ("all", [{}, {}], "one set, it is a query"),
    ],
)
def test_parameters_are_those_of_the_statement(sql: Sql, file: Path, statement: str, parameters: Any, why: str) -> None:
    with pytest.raises(Reject, match=why):
        sql.execute(statement, parameters, ctx=context())
    assert rows(file) == []


def test_a_list_is_all_or_nothing(sql: Sql, file: Path) -> None:
    people: list[dict[str, Any]] = [{"id": n, "name": f"n{n}", "note": None} for n in range(250)]
    with pytest.raises(Reject, match="UNIQUE"):
        sql.execute("add", [*people, people[7]], ctx=context())
    assert rows(file) == []
    assert sql.execute("add", people, ctx=context())["changed"] == 250
    assert len(rows(file)) == 250


def test_rows_are_returned_up_to_their_limit(sql: Sql, file: Path) -> None:
    # One row is returned, one more is read, and the third is not: the statement is committed all the same.
    outcome = sql.execute("returning", {"a": "Ada", "b": "Bob", "c": "Cid"}, ctx=context())
    assert (outcome["rows"], outcome["truncated"]) == ([{"id": 1, "name": "Ada"}], True)
    assert [name for _, name, _ in rows(file)] == ["Ada", "Bob", "Cid"]
    outcome = sql.execute("all", ctx=context())
    assert (outcome["changed"], len(outcome["rows"]), outcome["truncated"]) == (0, 3, False)
    sql.execute("add", {"id": 9, "name": "Dan", "note": None}, ctx=context())
    assert sql.execute("all", ctx=context())["truncated"] is True


def test_a_query_changes_nothing(sql: Sql, file: Path) -> None:
    sql.execute("add", ADA, ctx=context())
    assert sql.execute("sneaky", ctx=context())["rows"] == [{"id": 1}]
    assert len(rows(file)) == 1


def test_the_tasks_id_is_a_parameter(sql: Sql, file: Path) -> None:
    sql.execute("add", ADA, ctx=context())
    sql.execute("id", ctx=context(id="'id'"))
    assert rows(file) == [(1, "Ada", "'id'")]


def test_a_second_run_of_a_task_changes_nothing(sql: Sql, file: Path) -> None:
    assert sql.execute("add-once", ADA, ctx=context())["skipped"] is False
    for parameters in (ADA, {**ADA, "id": 2, "name": "Bob"}):
        outcome = sql.execute("add-once", parameters, ctx=context())
        assert outcome == {"changed": 0, "rows": [], "truncated": False, "skipped": True}
    assert rows(file) == [(1, "Ada", None)]
    sql.execute("add-once", {**ADA, "id": 2, "name": "Bob"}, ctx=context(id="msg_2"))
    assert len(rows(file)) == 2


def test_an_id_counts_for_its_statement_only(sql: Sql, file: Path) -> None:
    sql.execute("add-once", ADA, ctx=context())
    assert sql.execute("add-more", {"name": "Ada"}, ctx=context())["changed"] == 1
    done = rows(file, "SELECT id, statement, at IS NOT NULL FROM kworker_done ORDER BY statement")
    assert done == [("msg_1", "add-more", 1), ("msg_1", "add-once", 1)]


def test_a_failed_run_does_not_count(sql: Sql, file: Path) -> None:
    with pytest.raises(Reject, match="CHECK"):
        sql.execute("add-once", {**ADA, "note": "bad"}, ctx=context())
    assert rows(file, "SELECT * FROM kworker_done") == []
    assert sql.execute("add-once", ADA, ctx=context())["skipped"] is False


def test_of_many_runs_at_once_one_counts(sql: Sql, file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(sql.execute, "add-more", {"name": str(n)}, ctx=context(id=str(n // 8))) for n in range(64)]
        outcomes = [run.result() for run in runs]
    assert sum(outcome["changed"] for outcome in outcomes) == 8
    assert sum(outcome["skipped"] for outcome in outcomes) == 56
    assert len(rows(file)) == 8


def test_kworker_done_is_made_only_when_it_is_needed(file: Path) -> None:
    with plugin_on(file, statements={"all": STATEMENTS["all"]}):
        pass
    named = "SELECT name FROM sqlite_schema WHERE name = 'kworker_done'"
    assert rows(file, named) == []
    for _ in range(2):
        with plugin_on(file):
            pass
        assert rows(file, named) == [("kworker_done",)]


def test_a_kworker_done_that_another_worker_made_first_serves(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kworker_sql import database

    create = database.DONE.create

    def create_second(engine: Any, **_: Any) -> None:
        create(engine)
        create(engine, checkfirst=False)  # as if it had been missing when it was looked for

    monkeypatch.setattr(database.DONE, "create", create_second)
    with plugin_on(file) as plugin:
        assert plugin.execute("add-once", ADA, ctx=context())["skipped"] is False


def test_a_kworker_done_that_cannot_be_made_is_told(file: Path) -> None:
    read_only = plugin_on(file, url=f"sqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(ConfigError, match=r"kworker_done cannot be created, see the README.*readonly"), read_only:
        pass


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({**ADA, "name": None}, "NOT NULL"),
        ({**ADA, "note": "bad"}, "CHECK"),
        ({**ADA, "id": "x"}, "mismatch"),
        ({**ADA, "id": 2**70}, "too large"),
        ({**ADA, "name": "\ud800"}, "surrogates"),
    ],
)
def test_data_that_does_not_fit_is_rejected(sql: Sql, file: Path, parameters: Any, why: str) -> None:
    with pytest.raises(Reject, match=why):
        sql.execute("add", parameters, ctx=context())
    assert rows(file) == []


def test_a_statement_ends_at_its_timeout(sql: Sql) -> None:
    with pytest.raises(Retry, match="interrupted"):
        sql.execute("endless", ctx=context())
    assert sql.execute("all", ctx=context(seconds=None))["rows"] == []  # what was set for one is not left to the next


def test_a_statement_ends_before_its_task(file: Path) -> None:
    endless = {"it": {"sql": STATEMENTS["endless"]["sql"]}}
    ctx = context(seconds=1)
    with plugin_on(file, statements=endless) as plugin, pytest.raises(Retry, match="interrupted"):
        plugin.execute("it", ctx=ctx)
    assert (ctx.remaining() or 0) > 0


def test_nothing_starts_when_no_time_is_left(sql: Sql, file: Path) -> None:
    cancelled = context()
    cancelled.cancel()
    for ctx in (context(seconds=0.1), cancelled):
        with pytest.raises(Retry, match="no time is left"):
            sql.execute("add", ADA, ctx=ctx)
    assert rows(file) == []


def test_nothing_is_committed_after_the_time(sql: Sql, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kworker_sql import database

    execute = database._execute

    def late(connection: Any, ready: Any, sets: Any, until: float) -> Any:
        outcome = execute(connection, ready, sets, until)
        monkeypatch.setattr(time, "monotonic", lambda: until + 1)
        return outcome

    monkeypatch.setattr(database, "_execute", late)
    with pytest.raises(Retry, match="nothing was committed"):
        sql.execute("add", ADA, ctx=context())
    assert rows(file) == []


def test_a_locked_database_is_tried_again(sql: Sql, file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        ctx = context(seconds=1)
        with pytest.raises(Retry, match="locked"):
            sql.execute("add", ADA, ctx=ctx)
        assert (ctx.remaining() or 0) > 0
    sql.execute("add", ADA, ctx=context())
    assert len(rows(file)) == 1


def test_a_missing_table_is_tried_again(sql: Sql) -> None:
    with pytest.raises((Retry, StatementFailedError), match="no such table"):
        sql.execute("missing", ctx=context())


def test_more_tasks_than_connections_wait_for_one(file: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with plugin._database._connection(None):
            held.set()
            release.wait(30)

    with plugin_on(file, pool_size=1, pool_timeout=0.05) as plugin, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert held.wait(30)
        with pytest.raises(Retry, match="no connection"):
            plugin.execute("all", ctx=context())
        release.set()
        holding.result()
        assert plugin.execute("all", ctx=context())["rows"] == []


def test_what_a_worker_makes_of_it(file: Path, memory_worker: MakeWorker) -> None:
    worker = memory_worker(Sql, settings={"Sql": {"url": f"sqlite:///{file}", "statements": STATEMENTS}})
    for _ in range(2):
        worker.publish("sql.execute", {"statement": "add-once", "parameters": ADA}, id="order-1")
    worker.publish("sql.execute", {"statement": "add", "parameters": ADA}, id="order-2")
    worker.publish("sql.execute", {"statement": "DROP TABLE people"})
    worker.publish("sql.execute", {"statement": "missing"})
    worker.run()
    assert (worker.succeeded, worker.waiting_retries) == (2, 1)
    assert [letter.reason for letter in worker.dead_letters] == ["rejected", "rejected"]
    assert "UNIQUE constraint failed: people.id" in worker.dead_letters[0].message
    worker.advance("1h")
    assert worker.dead_letters[2].reason == "exhausted"
    assert worker.committed == 5
    assert rows(file) == [(1, "Ada", None)]
