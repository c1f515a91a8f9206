"""What a receiver's answer means, and how long it may make us wait."""

from __future__ import annotations

import pytest

from kworker import Reject, Retry
from kworker_http.answers import EXCERPT, Answer, judge, wait

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def verdict(answer: Answer) -> int:
    return judge(answer, origin="https://hooks.example.org", now=NOW, max_retry_after=600)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    assert verdict(Answer(status, "30", b"whatever")) == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 599])
def test_passing_trouble_is_tried_again(status: int) -> None:
    with pytest.raises(Retry, match=f"https://hooks.example.org answered {status}: 'busy'") as error:
        verdict(Answer(status, None, b"busy"))
    assert error.value.after is None


@pytest.mark.parametrize("status", [101, 400, 401, 403, 404, 409, 410, 413, 418, 422])
def test_the_rest_is_rejected(status: int) -> None:
    with pytest.raises(Reject, match=f"answered {status}: 'no such hook'"):
        verdict(Answer(status, "30", b"no such hook"))


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_rejected(status: int) -> None:
    with pytest.raises(Reject, match="redirects are not followed"):
        verdict(Answer(status))


def test_an_excerpt_is_short_and_harmless() -> None:
    with pytest.raises(Reject) as error:
        verdict(Answer(400, None, b"\x1b[2J\r\n\xff" + b"x" * 10_000))
    assert len(str(error.value)) < EXCERPT + 100
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        (" 30 ", 30.0),
        ("601", 600.0),
        ("9999999999", 600.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Wed, 15 Nov 2023 22:13:20 GMT", 600.0),
        ("Tue, 14 Nov 2023 22:13:20 GMT", None),
        ("Mon, 13 Nov 2023 22:13:20 GMT", None),
        ("Tue, 31 Feb 2023 22:13:20 GMT", None),
        ("Tue, 14 Xxx 2023 22:13:50 GMT", None),
        ("Tue, 14 Nov 2023 99:13:50 GMT", None),
        ("Sat, 01 Jan 0000 00:00:00 GMT", None),
        ("0", None),
        ("-5", None),
        ("1e9", None),
        ("1.5", None),
        ("inf", None),
        ("nan", None),
        ("٣", None),
        ("9" * 5000, None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert wait(header, now=NOW, longest=600) == seconds


def test_retry_after_becomes_the_wait() -> None:
    with pytest.raises(Retry) as error:
        verdict(Answer(503, "Tue, 14 Nov 2023 22:13:50 GMT"))
    assert error.value.after == 30.0
