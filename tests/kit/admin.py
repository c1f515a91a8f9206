"""An admin port to ask: the real server on loopback, what it shows set by the test."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Self

from kit.waiting import wait_for
from kworker.health import AdminServer, Findings

DEADLINE = 10.0
"""Seconds after which a fact that did not come is a failure."""


class Answer:
    """One answer of the server, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.text = response.read().decode()
        self.headers = response.headers


class AdminPort:
    """A started server; `live`, `ready`, `status` and `metrics` are what it shows."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.reset()
        self.server = AdminServer(
            host,
            0,
            metrics=lambda accept: self.metrics(accept),
            live=lambda: self.live,
            ready=lambda: self.ready,
            status=lambda: self.status,
        )
        self.host = "::1" if ":" in host else "127.0.0.1"

    def reset(self) -> None:
        """Show what a healthy worker shows, with no connection open from before."""
        self.live: Findings = []
        self.ready: Findings = []
        self.status: object = {"version": "0.1.0", "running": [{"task": "<script>\x1b[0m", "age": 1.5}]}
        self.accepted: list[str] = []
        self.metrics: Callable[[str], tuple[bytes, str]] = self._page
        wait_for(lambda: connection_threads() == 0, DEADLINE, "the connections of the test before end")

    def _page(self, accept: str) -> tuple[bytes, str]:
        self.accepted.append(accept)
        return b"kworker_tasks_in_flight 3\n", "text/plain; version=0.0.4; charset=utf-8"

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        with closing(http.client.HTTPConnection(self.host, self.server.port, timeout=DEADLINE)) as connection:
            connection.request(method, path, headers=dict(headers or {}))
            return Answer(connection.getresponse())

    def connect(self) -> socket.socket:
        """A connection that has said nothing yet."""
        return socket.create_connection((self.host, self.server.port), timeout=DEADLINE)

    def say(self, request: bytes) -> bytes:
        """Send these bytes, nothing more, and return everything that comes back."""
        with self.connect() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass  # closed with something of ours unread: closed all the same
    return received


def ask_alive(connection: socket.socket) -> None:
    """One request on a connection that stays open, with its whole answer."""
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b"\r\n\r\nok\n"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece


def connection_threads() -> int:
    """How many connections are being served in this process."""
    return sum(thread.name == "kworker-admin-connection" for thread in threading.enumerate())
