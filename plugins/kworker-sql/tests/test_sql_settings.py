"""The settings of kworker-sql: every fault is told at the start, in one line, without the password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kworker import ConfigError
from kworker_sql import Sql, SqlSettings

SELECT = {"it": {"sql": "SELECT 1"}}


def settings(**table: Any) -> SqlSettings:
    return msgspec.convert({"statements": SELECT, **table}, SqlSettings)


def faults(**table: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        Sql().setup(settings(**table))
    assert all(fault.startswith("plugins.sql: ") and "\n" not in fault for fault in error.value.faults)
    return error.value.faults


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql+psycopg://kworker:pass@s3cret@h/d", "percent-encode"),
        ("postgresql+psycopg://kworker:pass@h/s3cret@h/d", "percent-encode"),
        ("postgresql+psycopg://kworker:p@h:s3cret/d", "percent-encode"),
        ("s3cret", "not like postgresql"),
        ("", "not like postgresql"),
        ("nosuch://kworker:s3cret@h/d", "no such database or driver"),
        ("mssql+pymssql://kworker:s3cret@h/d", "is not installed"),
        ("sqlite+aiosqlite:////tmp/s3cret", "async driver"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:s3cret?mode=memory&uri=true", "in memory"),
        ("sqlite:////no/such/folder/db", "cannot be used: unable to open database file"),
        ("postgresql+psycopg://kworker:s3cret@127.0.0.1:1/d", "cannot be used: connection failed"),
    ],
)
def test_an_url_that_cannot_be_used_is_told_without_its_secret(url: str, why: str) -> None:
    (fault,) = faults(url=url)
    assert why in fault
    assert "s3cret" not in fault


def test_the_url_is_given_once(tmp_path: Path) -> None:
    assert "give one of the two" in faults()[0]
    assert "give one of the two" in faults(url="sqlite:////x", url_file="/x")[0]
    assert "url_file: " in faults(url_file=str(tmp_path / "missing"))[0]
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert "url_file: " in faults(url_file=str(tmp_path / "bytes"))[0]


def test_the_url_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/s3cret\n")
    given = settings(url_file=str(tmp_path / "url"))
    plugin = Sql()
    plugin.setup(given)
    plugin.teardown()
    assert (tmp_path / "s3cret").exists()
    assert "s3cret" not in repr(given) + repr(settings(url="sqlite:////s3cret"))


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    statements = {f"s{n}": {"sql": "SELECT 1", "kind": "query", "idempotent": True} for n in range(2)}
    assert len(faults(statements=statements, url="nosuch://x")) == 3


@pytest.mark.parametrize(
    "table",
    [
        {"statements": {}},
        {"statements": {"": {"sql": "SELECT 1"}}},
        {"statements": {"x" * 101: {"sql": "SELECT 1"}}},
        {"statements": {"a": {}}},
        {"statements": {"a": {"sql": ""}}},
        {"statements": {"a": {"sql": "SELECT 1", "kind": "script"}}},
        {"statements": {"a": {"sql": "SELECT 1", "timeout": 0}}},
        {"statements": {"a": {"sql": "SELECT 1", "commit": True}}},
        {"pool_size": 0},
        {"pool": 3},
    ],
)
def test_settings_are_strict(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**table)
