"""The network side: pooled connections that open only to permitted addresses and never outstay their time.

urllib3 keeps the pools and speaks HTTP. Two things are ours. A new connection resolves the host once, checks every
address and connects to one of those checked, so that a name cannot change in between; the host's name stays for
TLS and the Host header. And a socket's timeout is a budget for all its reads and writes together, not for each:
a receiver that drips bytes gains nothing.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from kworker import Reject
from kworker_http.addresses import Guard
from kworker_http.answers import Answer, NoAnswerError
from kworker_http.urls import Url

HOSTS = 256
"""Hosts whose connections are kept; the least recently used gives way."""


class TimedSocket(socket.socket):
    """A socket whose timeout counts from `settimeout` over all its operations together."""

    _until: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._until = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def _spend(self) -> None:
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            super().settimeout(left)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._spend()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._spend()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._spend()
        super().sendall(*args, **kwargs)


class TimedTLSSocket(TimedSocket, ssl.SSLSocket):
    """The same over TLS."""


class Transport:
    """Posts bodies; used by many threads at once.

    Raises OSError or ssl.SSLError when `ca_file` cannot be read.
    """

    def __init__(self, guard: Guard, *, keep_alive: int, max_response_bytes: int, ca_file: str | None) -> None:
        context = ssl.create_default_context()
        context.sslsocket_class = TimedTLSSocket
        if ca_file is not None:
            context.load_verify_locations(ca_file)
        self._cap = max_response_bytes
        self._pools = urllib3.PoolManager(HOSTS, maxsize=keep_alive, ssl_context=context)
        self._pools.pool_classes_by_scheme = _guarded_pools(guard)

    def post(self, url: Url, body: bytes, headers: Mapping[str, str], limit: float) -> Answer:
        """Send one POST; returns the answer, of its body at most the cap, within `limit` seconds.

        Raises NoAnswerError, or Reject when the host has no permitted address.
        """
        pool = self._pools.connection_from_host(url.host, url.port, url.scheme)
        try:
            response = pool.urlopen(
                "POST",
                url.target,
                body,
                headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=limit),
                preload_content=False,
                decode_content=False,
            )
        except HTTPError as error:
            cause = error.args[-1] if error.args and isinstance(error.args[-1], OSError) else error
            raise NoAnswerError(f"{url.origin}: {cause}") from error
        return Answer(response.status, response.headers.get("retry-after"), self._drain(response))

    def _drain(self, response: urllib3.BaseHTTPResponse) -> bytes:
        # The status stands already, so a body that breaks, drips or never ends costs no more than its connection;
        # one read to its end gives the connection back to the pool.
        try:
            body = response.read(self._cap + 1, decode_content=False)
        except HTTPError:
            response.close()
            return b""
        if len(body) > self._cap:
            response.close()
        return body[: self._cap]

    def close(self) -> None:
        """Close every idle connection."""
        self._pools.clear()


def _guarded_pools(guard: Guard) -> dict[str, Any]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, guard)

        def connect(self) -> None:
            _connect(self, super().connect)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, guard)

        def connect(self) -> None:
            _connect(self, super().connect)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(connection: HTTPConnection, connect: Callable[[], None]) -> None:
    until = _until(connection)
    connect()
    # What follows the connecting has only what it left: urllib3 would give the sending the whole time again.
    connection.timeout = max(0.001, until - time.monotonic())
    # A urllib3 that opened the socket by another way would have skipped the check of the address.
    if not isinstance(connection.sock, TimedSocket):
        connection.close()
        raise RuntimeError(  # noqa: TRY004 - no caller passed a wrong type, the library changed
            "kworker-http does not fit this version of urllib3: the connection's address was not checked"
        )


def _until(connection: HTTPConnection) -> float:
    limit = connection.timeout
    if limit is None:
        raise RuntimeError("a delivery without a time limit")
    return time.monotonic() + limit


def _open(connection: HTTPConnection, guard: Guard) -> socket.socket:
    host, until = connection.host, _until(connection)
    found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    permitted = [info for info in found if guard.permits(str(info[4][0]))]
    if not permitted:
        raise Reject(f"{host} is at {found[0][4][0]}, an internal address: refused, see allow_internal")
    fault: OSError = TimeoutError("timed out")
    for index, (family, kind, protocol, _, address) in enumerate(permitted):
        left = until - time.monotonic()
        if left <= 0:
            break
        sock = TimedSocket(family, kind, protocol)
        try:
            for option in connection.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(left / (len(permitted) - index))  # a silent address leaves time for the next
            sock.connect(address)
            sock.settimeout(max(0.001, until - time.monotonic()))
        except OSError as error:
            sock.close()
            fault = error
        else:
            return sock
    raise fault
