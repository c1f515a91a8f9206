"""`email.send` to servers that are not ready, hang up or say nothing more: tried again, and in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from kworker import Reject, Retry, testing
from kworker.testing import opened
from kworker_email import Email

HI: dict[str, Any] = {"subject": "Hi", "text": "Hi\n"}
BASE: dict[str, Any] = {"sender": "shop@example.org", "allow": ["*"], "hello": "here", "security": "none"}
context = partial(testing.context, "email.send", seconds=60)
email = partial(opened, Email, **BASE, host="127.0.0.1")


@contextlib.contextmanager
def script(*replies: bytes | None) -> Iterator[int]:
    """A server that says these replies, one for each line that it is told; at None it hangs up."""
    ended = threading.Event()

    def talk() -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as lines, contextlib.suppress(OSError):
            for reply in replies:
                if reply is None:
                    return
                peer.sendall(reply)
                if not reply.endswith(b"\n") or not lines.readline():
                    ended.wait(30)
                    return
            while lines.readline():
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        talking = pool.submit(talk)
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
        talking.result(30)


GREETED: Sequence[bytes] = (b"220 hi\r\n", b"250 hi\r\n")


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ((None,), "closed"),
        ((b"554 no service\r\n",), "554 no service"),
        ((b"421 busy\r\n",), "421 busy"),
        ((*GREETED, None), "closed"),
        ((*GREETED, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", None), "closed"),
        ((b"nonsense\r\n",), "nonsense|-1|closed"),
        ((*GREETED, b"what\r\n"), "refused: -1"),
    ],
)
def test_a_server_that_is_not_ready_is_tried_again(replies: tuple[bytes | None, ...], why: str) -> None:
    with script(*replies) as port, email(port=port) as made, pytest.raises(Retry, match=why):
        made.send("ada@example.org", **HI, ctx=context())


def test_554_to_data_is_rejected() -> None:
    refusal = pytest.raises(Reject, match="the e-mail was refused: 554 no")
    with script(*GREETED, b"250 ok\r\n", b"250 ok\r\n", b"554 no\r\n") as port, email(port=port) as made, refusal:
        made.send("ada@example.org", **HI, ctx=context())


def test_no_server_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with email(port=port) as made, pytest.raises(Retry, match="refused"):
        made.send("ada@example.org", **HI, ctx=context())
    with email(host="nowhere.invalid", port=25) as made, pytest.raises(Retry, match=r"nowhere\.invalid:25: "):
        made.send("ada@example.org", **HI, ctx=context())


@pytest.mark.parametrize("replies", [(b"",), (b"220 hi\r\n", b"250-a"), (*GREETED, b"250 ok\r\n", b"250 ")])
def test_a_server_that_says_nothing_more_is_given_up_before_the_task_ends(replies: tuple[bytes, ...]) -> None:
    ctx = context(seconds=1)
    with script(*replies) as port, email(port=port) as made, pytest.raises(Retry, match="timed out"):
        made.send("ada@example.org", **HI, ctx=ctx)
    assert (ctx.remaining() or 0) > 0


def test_the_time_is_one_for_connecting_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def slowly(*arguments: Any, **options: Any) -> socket.socket:
        time.sleep(0.6)  # a network that takes its time
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", slowly)
    ctx = context(seconds=1)
    with script(b"") as port, email(port=port) as made, pytest.raises(Retry, match="timed out"):
        made.send("ada@example.org", **HI, ctx=ctx)
    assert (ctx.remaining() or 0) > 0
