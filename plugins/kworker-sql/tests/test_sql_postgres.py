"""`sql.execute` on a real PostgreSQL, started here: what only a server has, from its types to its deadlocks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import psycopg
import pytest

from kit import wait_for
from kworker import ConfigError, Reject, Retry, testing
from kworker.testing import opened
from kworker_sql import Sql, StatementFailedError

PASSWORD = "s3cret@/:%"
TABLES = """
CREATE TABLE events (
    id uuid PRIMARY KEY, at timestamptz NOT NULL, data jsonb, price numeric(10, 2), n smallint, ok boolean, name text
);
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
INSERT INTO accounts VALUES (1, 100), (2, 100)
"""
STATEMENTS: dict[str, dict[str, Any]] = {
    "event": {
        "sql": "INSERT INTO events (id, at, data, price, n, ok, name) VALUES (:id, :at, :data, :price, :n, :ok, :name)"
        " RETURNING *"
    },
    "add": {"sql": "UPDATE accounts SET balance = balance + :by WHERE id = :id", "idempotent": True},
    "slow-add": {
        "sql": "UPDATE accounts SET balance = balance + :by FROM (SELECT pg_sleep(0.3)) AS slept WHERE id = :id",
        "idempotent": True,
    },
    "pay": {"sql": "UPDATE accounts SET balance = balance + :by WHERE id = :id"},
    "sum": {"sql": "UPDATE accounts SET balance = (SELECT sum(balance) FROM accounts) WHERE id = :id"},
    "sleep": {"sql": "SELECT pg_sleep(600)"},
    "series": {"sql": "SELECT generate_series(1, 1000000000) AS n", "kind": "query", "max_rows": 3},
    "missing": {"sql": "INSERT INTO nowhere VALUES (1)"},
    "raise": {"sql": "DO $$ BEGIN RAISE EXCEPTION 'not today'; END $$"},
}
GATE = """
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.balance > OLD.balance THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER gate AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION gate()
"""
"""Who has added to a balance waits in its transaction, until the gate is opened."""
EVENT: dict[str, Any] = {
    "id": "8a6e0804-2bd0-4672-b79d-d97027f9071a",
    "at": "2026-11-24T09:00:00Z",
    "data": '{"a": [1]}',
    "price": "19.99",
    "n": 7,
    "ok": True,
    "name": "O'Hara; --",
}


def binaries() -> Path:
    """The folder of PostgreSQL's server programs: Debian keeps them off the PATH."""
    named = [Path(found).resolve() for found in [shutil.which("initdb")] if found]
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not (found := [*named, *reversed(versions)]):
        install = "apt-get install -y --no-install-recommends postgresql"
        raise pytest.fail.Exception(
            f"these tests start a PostgreSQL, and it is not installed: {install}", pytrace=False
        )
    return found[0].parent


class Postgres:
    """A server of its own in a folder of its own, run by an unprivileged user: PostgreSQL refuses root."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._data, self._log = binaries(), folder / "data", folder / "log"
        self._user: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self._user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        initdb = [
            str(self._bin / "initdb"),
            f"--pgdata={self._data}",
            "--username=kworker",
            "--encoding=UTF8",
            "--locale=C",
        ]
        secured = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"]
        made = subprocess.run([*initdb, *secured], **self._user, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        self.url = f"postgresql+psycopg://kworker:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"
        self._leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        options = ["-c", "fsync=off", "-c", f"unix_socket_directories={self._data}", "-c", "listen_addresses=127.0.0.1"]
        command = [*self._leash, str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, **self._user, stdout=log, stderr=log)
        wait_for(lambda: process.poll() is not None or self._answers(), 60, "PostgreSQL to answer")
        assert process.poll() is None, self._log.read_text()
        return process

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="kworker", password=PASSWORD, dbname="postgres", autocommit=True
        )

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            found = connection.execute(sql.encode())
            return found.fetchall() if found.description else []

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # a fast shutdown: connections are broken off
        self._process.wait(60)

    def restart(self) -> None:
        self.stop()
        self._process = self._start()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    # Not below tmp_path: pytest's folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="kworker-postgres-") as folder:
        postgres = Postgres(Path(folder))
        yield postgres
        postgres.stop()


@pytest.fixture
def postgres(server: Postgres) -> Postgres:
    server.ask("DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + TABLES)
    return server


@pytest.fixture
def sql(postgres: Postgres) -> Iterator[Sql]:
    with plugin_on(url=postgres.url) as plugin:
        yield plugin


plugin_on = partial(opened, Sql, statements=STATEMENTS)
context = partial(testing.context, "sql.execute", id="msg_1", seconds=60)


def balance(postgres: Postgres, account: int = 1) -> int:
    ((found,),) = postgres.ask(f"SELECT balance FROM accounts WHERE id = {account}")
    return int(found)


def busy(postgres: Postgres, wait: str) -> int:
    """How many of the plugin's connections wait for `wait`."""
    ours = f"application_name = 'kworker-sql' AND wait_event = '{wait}' AND state = 'active'"
    return int(postgres.ask(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}")[0][0])


def test_text_becomes_what_the_column_is_and_rows_become_json(sql: Sql) -> None:
    outcome = sql.execute("event", EVENT, ctx=context())
    assert outcome["changed"] == 1
    (row,) = msgspec.json.decode(msgspec.json.encode(outcome["rows"]))
    assert row.pop("at").startswith("2026-11-24T")
    assert row == {key: value for key, value in EVENT.items() if key != "at"} | {"data": {"a": [1]}}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"id": "x"}, "invalid input syntax for type uuid"),
        ({"at": "soon"}, "invalid input syntax"),
        ({"at": None}, "null value in column"),
        ({"n": 70_000}, "out of range"),
        ({"n": 2**70}, "out of range"),
        ({"price": "123456789.00"}, "overflow"),
        ({"name": "a\0b"}, "NUL"),
        ({"name": "\ud800"}, "surrogates"),
    ],
)
def test_data_that_does_not_fit_is_rejected(sql: Sql, postgres: Postgres, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(Reject, match=why) as error:
        sql.execute("event", EVENT | changed, ctx=context())
    assert "O'Hara" not in str(error.value)  # PostgreSQL's detail shows the whole row
    assert "\n" not in str(error.value)
    assert postgres.ask("SELECT * FROM events") == []


def test_what_no_message_decides_is_a_failure(sql: Sql) -> None:
    with pytest.raises(StatementFailedError, match=r"^relation \"nowhere\" does not exist$"):
        sql.execute("missing", ctx=context())
    with pytest.raises(StatementFailedError, match=r"^not today$"):
        sql.execute("raise", ctx=context())


def test_a_second_run_of_a_task_changes_nothing(sql: Sql, postgres: Postgres) -> None:
    assert sql.execute("add", {"id": 1, "by": 5}, ctx=context())["skipped"] is False
    assert sql.execute("add", {"id": 1, "by": 5}, ctx=context())["skipped"] is True
    with pytest.raises(Reject, match="violates check constraint"):
        sql.execute("add", {"id": 1, "by": -1000}, ctx=context(id="msg_2"))
    assert sql.execute("add", {"id": 1, "by": 1}, ctx=context(id="msg_2"))["skipped"] is False
    assert balance(postgres) == 106
    assert postgres.ask("SELECT id, statement FROM kworker_done ORDER BY id") == [("msg_1", "add"), ("msg_2", "add")]


def test_of_many_runs_at_once_one_counts(sql: Sql, postgres: Postgres) -> None:
    # Two workers run one task when its partition moves: the second waits for the first to commit.
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(sql.execute, "slow-add", {"id": 1, "by": 1}, ctx=context()) for _ in range(8)]
        outcomes = [run.result() for run in runs]
    assert sorted(outcome["changed"] for outcome in outcomes) == [0] * 7 + [1]
    assert balance(postgres) == 101


def test_a_run_that_waited_for_one_that_fails_takes_its_place(sql: Sql, postgres: Postgres) -> None:
    with postgres.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN")
        other.execute("INSERT INTO kworker_done (id, statement) VALUES ('msg_1', 'add')")
        run = pool.submit(sql.execute, "add", {"id": 1, "by": 1}, ctx=context())
        wait_for(lambda: busy(postgres, "transactionid"), 30, "the second run to wait")
        other.execute("ROLLBACK")
        assert run.result(30)["skipped"] is False
    assert balance(postgres) == 101


def test_workers_that_start_together_make_one_kworker_done(postgres: Postgres) -> None:
    start = threading.Barrier(8)

    def make(_: int) -> None:
        start.wait()
        with plugin_on(url=postgres.url):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert postgres.ask("SELECT * FROM kworker_done") == []


def test_without_the_right_to_make_kworker_done_the_ddl_of_the_readme_serves(postgres: Postgres) -> None:
    postgres.ask("DROP ROLE IF EXISTS humble; CREATE ROLE humble LOGIN PASSWORD 'humble'")
    postgres.ask("GRANT USAGE ON SCHEMA public TO humble; GRANT SELECT, UPDATE ON accounts TO humble")
    url = f"postgresql+psycopg://humble:humble@127.0.0.1:{postgres.port}/postgres"
    refusal = pytest.raises(ConfigError, match=r"kworker_done cannot be created, see the README.*permission denied")
    with refusal, plugin_on(url=url):
        pass
    ddl = Path(__file__).parents[1].joinpath("README.md").read_text().split("```sql\n")[1].split("```")[0]
    postgres.ask(ddl)
    postgres.ask("GRANT SELECT, INSERT ON kworker_done TO humble")
    with plugin_on(url=url) as plugin:
        assert [plugin.execute("add", {"id": 1, "by": 1}, ctx=context())["skipped"] for _ in range(2)] == [False, True]


def test_a_wrong_password_keeps_the_worker_from_starting(postgres: Postgres) -> None:
    wrong = plugin_on(url=f"postgresql+psycopg://kworker:wr0ng@127.0.0.1:{postgres.port}/postgres")
    with pytest.raises(ConfigError, match="password authentication failed") as error, wrong:
        pass
    assert "wr0ng" not in str(error.value)


def test_a_statement_ends_on_the_server_before_its_task(sql: Sql, postgres: Postgres) -> None:
    ctx = context(seconds=1)
    with pytest.raises(Retry, match="statement timeout"):
        sql.execute("sleep", ctx=ctx)
    assert (ctx.remaining() or 0) > 0
    assert busy(postgres, "PgSleep") == 0
    assert sql.execute("pay", {"id": 1, "by": 1}, ctx=context(seconds=None))["changed"] == 1


def test_a_lock_is_waited_for_no_longer_than_the_task_has(sql: Sql, postgres: Postgres) -> None:
    with postgres.connect() as other:
        other.execute("BEGIN")
        other.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
        with pytest.raises(Retry, match="statement timeout"):
            sql.execute("add", {"id": 1, "by": 1}, ctx=context(seconds=1))
        other.execute("ROLLBACK")
    assert sql.execute("add", {"id": 1, "by": 1}, ctx=context())["skipped"] is False


def loser(postgres: Postgres, plugin: Sql, statement: str, parameters: list[Any]) -> BaseException:
    """Execute for each of two sets of parameters so that both transactions meet; returns the error of the one."""
    postgres.ask(GATE)
    with postgres.connect() as other, ThreadPoolExecutor(2) as pool:
        other.execute("SELECT pg_advisory_lock(7)")
        runs = [pool.submit(plugin.execute, statement, each, ctx=context()) for each in parameters]
        wait_for(lambda: busy(postgres, "advisory") == 2, 30, "both to stand at the gate")
        other.execute("SELECT pg_advisory_unlock(7)")
        (error,) = [error for run in runs if (error := run.exception(30)) is not None]
    return error


def test_of_a_deadlock_one_is_done_and_one_is_tried_again(sql: Sql, postgres: Postgres) -> None:
    transfers = [[{"id": a, "by": 1}, {"id": b, "by": -1}] for a, b in ((1, 2), (2, 1))]
    error = loser(postgres, sql, "pay", transfers)
    assert isinstance(error, Retry)
    assert "deadlock detected" in str(error)
    assert sorted([balance(postgres, 1), balance(postgres, 2)]) == [99, 101]


def test_a_serialization_failure_is_tried_again(postgres: Postgres) -> None:
    with plugin_on(url=postgres.url + "?options=-c%20default_transaction_isolation%3Dserializable") as plugin:
        error = loser(postgres, plugin, "sum", [{"id": 1}, {"id": 2}])
    assert isinstance(error, Retry)
    assert "could not serialize access" in str(error)
    assert sorted([balance(postgres, 1), balance(postgres, 2)]) == [100, 200]


def test_a_connection_that_breaks_is_tried_again_and_replaced(sql: Sql, postgres: Postgres) -> None:
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sql.execute, "sleep", ctx=context())
        wait_for(lambda: busy(postgres, "PgSleep"), 30, "the statement to run")
        postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kworker-sql'")
        with pytest.raises(Retry, match="terminat"):
            run.result(30)
    assert sql.execute("pay", {"id": 1, "by": 1}, ctx=context())["changed"] == 1


def test_a_server_that_is_away_is_tried_again_until_it_is_back(sql: Sql, postgres: Postgres) -> None:
    sql.execute("pay", {"id": 1, "by": 1}, ctx=context())
    postgres.stop()
    try:
        with pytest.raises(Retry, match="refused"):
            sql.execute("pay", {"id": 1, "by": 1}, ctx=context())
    finally:
        postgres.restart()
    assert sql.execute("pay", {"id": 1, "by": 1}, ctx=context())["changed"] == 1
    assert balance(postgres) == 102


@pytest.mark.filterwarnings("error")  # a cursor that stays open is a warning
def test_a_query_reads_no_more_than_it_returns(sql: Sql) -> None:
    outcome = sql.execute("series", ctx=context())
    assert (outcome["rows"], outcome["truncated"]) == ([{"n": 1}, {"n": 2}, {"n": 3}], True)


def test_a_list_is_one_transaction(sql: Sql, postgres: Postgres) -> None:
    pays: list[dict[str, Any]] = [{"id": 1, "by": 1}] * 250
    assert sql.execute("pay", pays, ctx=context())["changed"] == 250
    with pytest.raises(Reject, match="violates check constraint"):
        sql.execute("pay", [*pays, {"id": 2, "by": -1000}], ctx=context())
    assert balance(postgres) == 350
