"""What `[plugins.sql]` of kworker.toml may say. The URL, which may hold a password, shows in no repr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Name = Annotated[str, Meta(min_length=1, max_length=100)]


class Statement(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One statement that messages may name.

    sql: one statement; `:name` stands for a parameter of the message, `:kworker_id` for the task's id.
    kind: `execute` commits; `query` reads row by row and its transaction is rolled back.
    idempotent: each task id counts once: its row in `kworker_done` is written in the same transaction.
    timeout: seconds for one attempt; the task's own timeout holds as well. max_rows: returned of the rows at most.
    """

    sql: Annotated[str, Meta(min_length=1)]
    kind: Literal["execute", "query"] = "execute"
    idempotent: bool = False
    timeout: Seconds | None = None
    max_rows: Annotated[int, Meta(ge=0, le=100_000)] = 100


class SqlSettings(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The settings of kworker-sql.

    url, url_file: the database as a SQLAlchemy URL, or the file that holds it. statements: by the name that a message
    gives. pool_size: connections at most. pool_timeout: seconds to wait for one of them.
    """

    statements: Annotated[dict[Name, Statement], Meta(min_length=1)]
    url: str | None = None
    url_file: str | None = None
    pool_size: Annotated[int, Meta(ge=1, le=10_000)] = 16
    pool_timeout: Seconds = 30.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(statements: {', '.join(self.statements)})"

    def read_url(self) -> str:
        """The URL. Raises ValueError, one line, when it is not given once or its file cannot be read."""
        if (self.url is None) == (self.url_file is None):
            raise ValueError("url, url_file: give one of the two")
        if self.url_file is None:
            return self.url or ""
        try:
            return Path(self.url_file).read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"url_file: {self.url_file}: {error}") from None
