"""What an answer means: delivered, try again, or never again. Pure: the time is an argument."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from kworker import Reject, Retry

EXCERPT = 500

_PASSING = frozenset({408, 425, 429})
_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", re.ASCII)


class NoAnswerError(Exception):
    """The name was not found, the connection failed or broke, or the time was up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer: its status, its Retry-After header, and the start of its body."""

    status: int
    retry_after: str | None = None
    body: bytes = b""


def judge(answer: Answer, *, origin: str, now: float, max_retry_after: float) -> int:
    """The status, when it is 2xx. Raises Retry or Reject, saying who answered what, otherwise.

    now: seconds since the epoch.
    """
    status = answer.status
    if 200 <= status < 300:
        return status
    text = f"{origin} answered {status}"
    if 300 <= status < 400:
        raise Reject(f"{text}: redirects are not followed, publish the final URL")
    excerpt = answer.body[:EXCERPT].decode("utf-8", "replace")
    if excerpt:
        text = f"{text}: {excerpt!r}"
    if status in _PASSING or status >= 500:
        raise Retry(text, after=wait(answer.retry_after, now=now, longest=max_retry_after))
    raise Reject(text)


def wait(retry_after: str | None, *, now: float, longest: float) -> float | None:
    """Seconds that Retry-After asks for, `longest` at most; None when it asks for nothing that is still to come."""
    value = (retry_after or "").strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    elif _DATE.fullmatch(value):
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:  # a 31st of February
            return None
    else:
        return None
    return min(seconds, longest) if seconds > 0 else None
