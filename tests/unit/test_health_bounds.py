"""What a client can cost the admin port: its own connection; and how the port is taken and given back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from kit.admin import DEADLINE, AdminPort, ask_alive, connection_threads, rest
from kit.waiting import wait_for
from kworker import health
from kworker.errors import ConfigError
from kworker.health import open_port


@pytest.fixture(scope="module")
def served() -> Iterator[AdminPort]:
    """One server for all tests here: what it shows is reset for each."""
    with AdminPort() as port:
        yield port


@pytest.fixture
def admin(served: AdminPort) -> AdminPort:
    served.reset()
    return served


@pytest.mark.parametrize(
    "head", [b"Content-Length: 38\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"]
)
def test_a_body_is_not_taken_for_another_request(admin: AdminPort, head: bytes) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = admin.say(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + smuggled)
    assert received.count(b"HTTP/1.1 ") == 1
    assert admin.accepted == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(101)) + b"\r\n", b"431"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1 more words\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 60_000 + b"\r\n") * 90 + b"\r\n", b""),
        (b"\r\n\r\n", b""),
        (b"", b""),
    ],
    ids=["headers", "version", "words", "tls", "long path", "large headers", "blank", "nothing"],
)
def test_a_malformed_request_costs_only_its_connection(admin: AdminPort, request_bytes: bytes, status: bytes) -> None:
    with admin.connect() as connection:
        received = b""
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            received = rest(connection)
        except OSError:  # EPIPE, ECONNRESET or ENOTCONN, by how much was sent when the server closed
            assert not status, "closed before the answer"
    assert status in received.split(b"\r\n")[0]
    assert bool(received) == bool(status)
    assert admin.ask("/livez").status == 200


def test_a_request_that_trickles_in_is_cut_off(admin: AdminPort, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then (slowloris) does not renew the time of a request."""
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.3)
    with admin.connect() as connection:
        connection.settimeout(0.05)
        trickle = iter(b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 60_000)
        closed = False
        for byte in trickle:
            try:
                connection.sendall(bytes([byte]))
                closed = connection.recv(1) == b""
            except TimeoutError:
                continue  # still open: the server has not answered and has not closed
            except (BrokenPipeError, ConnectionResetError):
                closed = True
            break
        assert closed
        assert next(trickle, None) is not None
    assert admin.accepted == []


def test_an_idle_connection_is_closed(admin: AdminPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.2)
    with admin.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert rest(connection).endswith(b"\r\n\r\nok\n")


def test_further_connections_are_closed_until_one_ends(admin: AdminPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(admin.connect())
            ask_alive(connection)
        with admin.connect() as surplus:
            assert rest(surplus) == b""
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert rest(connection).endswith(b"ok\n")
    wait_for(lambda: connection_threads() == 0, DEADLINE, "every connection ends")
    assert admin.ask("/livez").status == 200


def test_a_server_out_of_threads_goes_on(admin: AdminPort, monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "kworker-admin-connection":
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(health, "CONNECTIONS", 1)
        for _ in range(3):
            with admin.connect() as connection:
                assert rest(connection) == b""
    assert admin.ask("/livez").status == 200


def test_stop_closes_the_port_and_open_connections() -> None:
    before = threading.enumerate()
    admin = AdminPort()
    admin.server.start()
    threads = [thread for thread in threading.enumerate() if thread.name == "kworker-admin" and thread not in before]
    assert [thread.daemon for thread in threads] == [True]
    with admin.connect() as kept, admin.connect() as silent:
        ask_alive(kept)
        wait_for(lambda: connection_threads() == 2, DEADLINE, "two connections")
        admin.server.stop()
        assert (rest(kept), rest(silent)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        admin.connect()
    assert not any(thread.is_alive() for thread in threads)
    wait_for(lambda: connection_threads() == 0, DEADLINE, "every connection ends")
    admin.server.stop()


def test_stop_without_start_closes_the_port() -> None:
    admin = AdminPort()
    admin.server.stop()
    with pytest.raises(ConnectionRefusedError):
        admin.connect()


def test_stop_does_not_wait_for_a_page_that_hangs() -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(accept: str) -> tuple[bytes, str]:
        entered.set()
        release.wait(DEADLINE)
        return b"", "text/plain"

    admin = AdminPort()
    admin.metrics = hang
    admin.server.start()
    with admin.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(DEADLINE)
        admin.server.stop()
        assert not release.is_set()
        assert rest(connection) == b""
    release.set()
    wait_for(lambda: connection_threads() == 0, DEADLINE, "every connection ends")


def test_an_explicit_busy_port_is_a_configuration_error() -> None:
    with closing(open_port("127.0.0.1", 0, explicit=True)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"'127.0.0.1' port {port}: Address already in use; choose another") as e:
            open_port("127.0.0.1", port, explicit=True)
        assert len(e.value.faults) == 1


def test_a_busy_default_port_gives_way_to_a_free_one(caplog: pytest.LogCaptureFixture) -> None:
    with closing(open_port("127.0.0.1", 0, explicit=False)) as busy:
        port = busy.getsockname()[1]
        with closing(open_port("127.0.0.1", port, explicit=False)) as other:
            taken = other.getsockname()[1]
    assert taken not in (0, port)
    assert [r.getMessage() for r in caplog.records] == [f"admin port {port} is busy, taking {taken} instead"]


def test_a_port_is_free_again_at_once() -> None:
    with AdminPort() as admin:
        assert admin.ask("/livez").status == 200
    open_port("127.0.0.1", admin.server.port, explicit=True).close()


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a\x1bb"])
def test_a_host_that_is_not_ours_is_a_configuration_error(host: str, explicit: bool) -> None:
    with pytest.raises(ConfigError, match=r"^admin port: cannot listen on ") as error:
        open_port(host, 0, explicit=explicit)
    assert str(error.value).isprintable()
