"""kworker-sql: execute a configured SQL statement with the payload as its bound parameters."""

from __future__ import annotations

from kworker_sql.plugin import Sql
from kworker_sql.settings import SqlSettings, Statement
from kworker_sql.verdict import StatementFailedError

__all__ = ["Sql", "SqlSettings", "Statement", "StatementFailedError"]
