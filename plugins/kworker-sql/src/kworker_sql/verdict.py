"""What an error of the database leads to: never again, try again, or a failure that the retry policy decides on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kworker import Reject, Retry

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

EXCERPT = 500
"""Characters of a database's message that an error shows."""

_MORE = re.compile(r"\n(?:DETAIL|CONTEXT|HINT|LINE \d+|STATEMENT):")
"""Where PostgreSQL's message ends: what follows may hold whole rows."""


class StatementFailedError(Exception):
    """The database refused a statement for what no message decides (no such table, no right): the policy decides."""


def judge(error: DBAPIError | OverflowError | UnicodeError) -> Reject | Retry | StatementFailedError:
    """What to raise for an error of the database or its driver."""
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError

    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError):
        return Reject(f"the database takes no such data: {why(error)}")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return Retry(why(error))
    return StatementFailedError(why(error))


def why(error: Exception) -> str:
    """The database's own words, one line: without the statement, its parameters, and the details of a row."""
    cause = getattr(error, "orig", None) or error
    words = " ".join(_MORE.split(str(cause), maxsplit=1)[0].split())
    return "".join(char if char.isprintable() else "?" for char in words[:EXCERPT]) or type(cause).__name__
