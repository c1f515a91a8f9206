"""A moment as users write it: a datetime with a time zone, RFC 3339 text, or seconds since the epoch; and as text."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

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


def rfc3339(at: float, zone: tzinfo = UTC, precision: str = "auto") -> str:
    """A moment as text. at: seconds since the epoch; precision: as `datetime.isoformat` calls it."""
    return datetime.fromtimestamp(at, zone).isoformat(timespec=precision).replace("+00:00", "Z")
