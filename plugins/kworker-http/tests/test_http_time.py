"""`http.deliver` against receivers that drip, stall, break off or talk without end: they get their time and no more."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme

from kworker import Retry, testing
from kworker.testing import opened
from kworker_http import Http
from kworker_http.addresses import Guard
from kworker_http.transport import TimedSocket, _guarded_pools

context = partial(testing.context, "http.deliver")
plugin = partial(opened, Http, allow_internal=["127.0.0.0/8"])


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[tuple[int, threading.Event]]:
    """A server of one connection that says what it likes; the event is set once the client has hung up."""
    listener = socket.create_server(("127.0.0.1", 0))
    hung_up = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            try:
                talk(connection)
            except OSError:
                hung_up.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], hung_up
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)  # far below any limit for one read


def silence(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass
    raise OSError("the client hung up")


@pytest.mark.parametrize("talk", [drip_headers, silence])
@pytest.mark.parametrize(("timeout", "seconds"), [(0.5, None), (60, 0.75)])
def test_a_slow_receiver_gets_no_more_than_the_time(
    talk: Callable[[socket.socket], None], timeout: float, seconds: float | None
) -> None:
    with raw_server(talk) as (port, hung_up):
        url = f"http://127.0.0.1:{port}"
        with plugin(allow=[url], timeout=timeout) as http, pytest.raises(Retry, match="timed out"):
            http.deliver(url, 1, ctx=context(seconds=seconds))
        assert hung_up.wait(30)


def test_a_receiver_that_does_not_read_gets_no_more_than_the_time() -> None:
    done = threading.Event()

    def read_nothing(_: socket.socket) -> None:
        done.wait(60)

    with raw_server(read_nothing) as (port, _):
        url = f"http://127.0.0.1:{port}"
        try:
            with plugin(allow=[url], timeout=0.5) as http, pytest.raises(Retry, match="timed out"):
                http.deliver(url, "x" * (32 << 20), ctx=context())
        finally:
            done.set()


def test_a_slow_handshake_gets_no_more_than_the_time() -> None:
    with raw_server(silence) as (port, hung_up):
        url = f"https://127.0.0.1:{port}"
        with plugin(allow=[url], timeout=0.5) as http, pytest.raises(Retry, match="timed out"):
            http.deliver(url, 1, ctx=context())
        assert hung_up.wait(30)


def test_a_drip_over_tls_gets_no_more_than_the_time(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def drip(connection: socket.socket) -> None:
        with tls.wrap_socket(connection, server_side=True) as secured:
            drip_headers(secured)

    with raw_server(drip) as (port, hung_up):
        url = f"https://127.0.0.1:{port}"
        with (
            plugin(allow=[url], timeout=0.7, ca_file=str(tmp_path / "ca.pem")) as http,
            pytest.raises(Retry, match="timed out"),
        ):
            http.deliver(url, 1, ctx=context())
        assert hung_up.wait(30)


def test_a_timeout_is_one_budget_for_all_that_a_socket_does() -> None:
    ours, theirs = socket.socketpair()
    with theirs, TimedSocket(fileno=ours.detach()) as timed:
        theirs.sendall(b"ab")
        timed.settimeout(60)
        lefts = [timed.gettimeout() or 0]
        for act in (lambda: timed.recv_into(bytearray(1)), lambda: timed.send(b"x"), lambda: timed.sendall(b"x")):
            act()
            lefts.append(timed.gettimeout() or 0)
        assert lefts == sorted(set(lefts), reverse=True)
        timed.recv_into(bytearray(1))  # now nothing more will come
        timed.settimeout(0.001)
        with pytest.raises(TimeoutError):
            timed.recv_into(bytearray(2))


def test_what_connecting_took_is_taken_off_the_rest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pool = _guarded_pools(Guard(True))["http"]("127.0.0.1", port)
        connection = pool.ConnectionCls("127.0.0.1", port, timeout=60)
        connection.connect()
        assert 0 < connection.timeout < 60
        connection.close()


def test_nothing_is_sent_when_no_time_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with plugin(allow=[url]) as http, pytest.raises(Retry, match="no time is left"):
            http.deliver(url, 1, ctx=context(seconds=0.1))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def endless_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def broken_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")


def slow_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("talk", [endless_body, broken_body, slow_body])
def test_a_2xx_counts_whatever_becomes_of_its_body(talk: Callable[[socket.socket], None]) -> None:
    with raw_server(talk) as (port, hung_up):
        url = f"http://127.0.0.1:{port}"
        with plugin(allow=[url], timeout=2) as http:
            assert http.deliver(url, 1, ctx=context()) == {"status": 200}
        assert talk is broken_body or hung_up.wait(30)


def hang_up(_: socket.socket) -> None:
    pass


def speak_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize("talk", [hang_up, speak_ssh])
def test_no_http_answer_is_tried_again(talk: Callable[[socket.socket], None]) -> None:
    with raw_server(talk) as (port, _):
        url = f"http://127.0.0.1:{port}"
        with plugin(allow=[url]) as http, pytest.raises(Retry, match=url):
            http.deliver(url, 1, ctx=context())


def test_a_refused_connection_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with plugin(allow=[url]) as http, pytest.raises(Retry, match=f"{url}: .*refused"):
        http.deliver(url, 1, ctx=context())
