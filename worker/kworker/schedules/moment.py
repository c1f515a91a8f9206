"""A moment as users write it: a datetime with a time zone, RFC 3339 text, or seconds since the epoch."""

from __future__ import annotations

from datetime import datetime

When = datetime | str | float
"""See the module."""


def moment(at: When) -> float:
    """Seconds since the epoch. Raises ValueError."""
    if isinstance(at, str):
        text = at
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is not an RFC 3339 time, like 2027-01-31T09:00:00+01:00") from None
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError(f"{at.isoformat()} has no offset from UTC: write 2027-01-31T09:00:00+01:00, or ...Z")
        return at.timestamp()
    if not 0 <= at < 1e12:  # NaN too
        raise ValueError(f"{at!r} is not a time in seconds since the epoch")
    return float(at)
