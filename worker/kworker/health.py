"""The admin port: /metrics, /livez, /readyz and /status of one worker, and the heartbeats behind liveness.

Owns: the listening socket and its threads (daemons named kworker-admin), and `Liveness`.
Promises: read only (GET and HEAD); bounded in connections, request size and time whatever a client does; a page in
a browser cannot read a loopback port through DNS rebinding; what a client sends is logged escaped, at debug level,
and never sent back. What is shown comes from callables, which run in the connection's thread: they must not block.
"""

from __future__ import annotations

import contextlib
import errno
import io
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kworker.errors import ConfigError
from kworker.terminal import printable

Findings = Sequence[str] | Mapping[str, str]
"""What a check found: the reasons against it (none: healthy), or a reason by name of check ('': it passed)."""

REQUEST_SECONDS = 10.0
"""How long a client may take to send one request, to take one answer, or to be idle between two."""
REQUEST_BYTES = 64 * 1024
"""How many bytes a request may have."""
CONNECTIONS = 32
"""How many connections are served at once; further ones are closed."""

_TEXT = "text/plain; charset=utf-8"
_log = logging.getLogger(__name__)


class Liveness:
    """Named heartbeats, each with the longest silence it may have. Pure: the time is an argument, in seconds.

    Any thread may beat; reading needs no lock.
    """

    def __init__(self) -> None:
        self._limits: dict[str, float] = {}
        self._beats: dict[str, float] = {}
        self._since = 0.0

    def expect(self, name: str, limit: float, now: float | None = None) -> None:
        """Expect a beat of `name` at least every `limit` seconds, from `now` on, or else from its first beat on."""
        if now is not None:
            self._beats[name] = now
        self._limits[name] = limit

    def beat(self, name: str, now: float) -> None:
        """`name` moved."""
        self._beats[name] = now

    def renew(self, now: float) -> None:
        """This process was frozen: silence counts from now on."""
        self._since = now

    def checks(self, now: float) -> dict[str, str]:
        """The reason against each expected heartbeat, '' for one that is in time."""
        found = {}
        for name, limit in self._limits.copy().items():
            silence = now - max(self._beats.get(name, now), self._since)
            found[name] = f"{name}: did not move for {silence:.1f} s (limit {limit:g} s)" if silence > limit else ""
        return found

    def stale(self, now: float) -> list[str]:
        """The reasons why this process is not alive: empty when it is."""
        return [reason for reason in self.checks(now).values() if reason]


def open_port(host: str, port: int, *, explicit: bool) -> socket.socket:
    """Listen on `host:port`, 0 for any free port; a busy port that nobody asked for gives way to a free one.

    Raises ConfigError when it cannot be had.
    """
    try:
        return _listen(host, port)
    except OSError as error:
        code = error.errno or 0
        if explicit or code != errno.EADDRINUSE:
            why = os.strerror(code) if code > 0 else error.strerror or str(error)  # below 0: a name that is unknown
            fault = (
                f"admin port: cannot listen on {host!r} port {port}: {why}; choose another, or port 0 for a free one"
            )
            raise ConfigError([fault]) from None
    listener = open_port(host, 0, explicit=True)
    _log.warning("admin port %d is busy, taking %d instead", port, listener.getsockname()[1])
    return listener


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS, dualstack_ipv6=both)
    listener.setblocking(False)  # a client that is gone again must not block accept() in the serving thread
    return listener


class AdminServer:
    """The HTTP server of the admin port. It listens when it is made, and answers from `start()` to `stop()`.

    `metrics` takes the Accept header and returns the page and its content type; `live` and `ready` return what they
    found; `status` returns anything msgspec can write as JSON. One that raises costs its request a 500.
    Raises ConfigError when the port cannot be had (see `open_port`).
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        live: Callable[[], Findings],
        ready: Callable[[], Findings],
        status: Callable[[], object],
        explicit: bool = True,
    ) -> None:
        listener = open_port(host, port, explicit=explicit)
        self.port: int = listener.getsockname()[1]
        """The port it listens on."""
        pages: dict[str, _Page] = {
            "/": lambda request: _Answer(HTTPStatus.OK, _listing(pages)),
            "/metrics": lambda request: _Answer(HTTPStatus.OK, *metrics(request.headers.get("Accept", ""))),
            "/livez": lambda request: _verdict(live(), request.verbose),
            "/readyz": lambda request: _verdict(ready(), request.verbose),
            "/status": lambda request: _Answer(HTTPStatus.OK, msgspec.json.encode(status()), "application/json"),
        }
        self._server = _Server(listener, host, pages)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="kworker-admin", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Close the port and every connection, within `timeout` seconds. May be called twice, or without `start`."""
        if self._thread.is_alive():
            # shutdown() waits for the serving thread without a limit: join() is the one that has one.
            threading.Thread(target=self._server.shutdown, name="kworker-admin-stop", daemon=True).start()
            self._thread.join(timeout)
        self._server.server_close()


class _Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class _Request(NamedTuple):
    headers: Message
    verbose: bool


_Page = Callable[[_Request], _Answer]


class _Server(ThreadingHTTPServer):
    """Serves `pages` on `listener`, a bounded number of connections at once."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, host: str, pages: Mapping[str, _Page]) -> None:
        super().__init__(listener.getsockname()[:2], _Connection, bind_and_activate=False)
        self.socket.close()  # the one it made; ours listens already
        self.socket = listener
        self.pages = pages
        self.host = host.casefold()
        self.is_loopback = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        self._open: set[Any] = set()  # only the serving thread adds, so the bound is exact
        self._closed = threading.Event()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._closed.wait(0.2)  # out of descriptors: the listener stays readable, do not spin on it
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= CONNECTIONS:
            _log.debug("admin connection of %s closed: there are %d already", client_address[0], CONNECTIONS)
            self.shutdown_request(request)
            return
        self._open.add(request)
        threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="kworker-admin-connection",
            daemon=True,
        ).start()  # no thread to be had: the caller gives this to handle_error() and closes the connection

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("admin connection of %s ended", client_address[0], exc_info=True)

    def server_close(self) -> None:
        self._closed.set()
        super().server_close()
        for request in self._open.copy():
            with contextlib.suppress(OSError):  # its own thread, or the client, closed it first
                request.shutdown(socket.SHUT_RDWR)


class _BoundedReader(io.RawIOBase):
    """The receiving side of a connection, with a time and a size limit for each whole request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.renew()

    def renew(self) -> None:
        self._deadline = time.monotonic() + REQUEST_SECONDS
        self._room = REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0 or self._room <= 0:
            raise TimeoutError("the request is too slow or too large")
        self._connection.settimeout(left)  # for the whole request: a byte now and then must not renew it
        try:
            received = self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(REQUEST_SECONDS)  # what an answer may take
        self._room -= received
        return received


class _Connection(BaseHTTPRequestHandler):
    """One connection: requests one after the other until it is closed."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # an unreadable request gets a whole answer, not HTTP/0.9's bare text
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _BoundedReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        self._reader.renew()
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the head of a request; False when it was refused, with the answer sent."""
        if not super().parse_request():
            return False
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body is not read, so it must not be taken for the next request
        refused = self._refusal()
        if refused is not None:
            self.close_connection = True
            self._send(refused)
        return refused is None

    def _refusal(self) -> _Answer | None:
        if not self._host_is_ours():
            return _Answer(HTTPStatus.FORBIDDEN, b"forbidden: the Host header is not one of this port\n")
        if self.command not in ("GET", "HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n")
        return None

    def _host_is_ours(self) -> bool:
        """False for a name that a web page could have pointed at this loopback port."""
        if not self.server.is_loopback:
            return True
        hosts = self.headers.get_all("Host", [])
        try:
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
            return name in ("localhost", self.server.host) or ipaddress.ip_address(name or "").is_loopback
        except ValueError:
            return False

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        page = self.server.pages.get(path)
        if page is None:
            self._send(_Answer(HTTPStatus.NOT_FOUND, b"not found; there is:\n" + _listing(self.server.pages)))
            return
        try:
            answer = page(_Request(self.headers, "verbose" in query.split("&")))
        except Exception:
            _log.debug("admin page %s failed", path, exc_info=True)
            answer = _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this page failed; the debug log has the trace\n")
        self._send(answer)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that could not be parsed, without repeating any of it."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(_Answer(status, f"{status.phrase}\n".encode()))

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "kworker"

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("admin request of %s: %s", self.client_address[0], printable(format % args))


def _verdict(found: Findings, verbose: bool) -> _Answer:
    """200 and `ok`, or 503 and the reasons one a line; verbose: every check one a line."""
    checks = list(found.items()) if isinstance(found, Mapping) else [(reason, reason) for reason in found]
    reasons = [reason for _, reason in checks if reason]
    listed = [f"[-] {reason}" if reason else f"[+] {name}: ok" for name, reason in checks] if verbose else reasons
    body = "".join(f"{printable(line)}\n" for line in (*listed, *([] if reasons else ["ok"]))).encode()
    return _Answer(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, body)


def _listing(pages: Mapping[str, _Page]) -> bytes:
    return "".join(f"{path}\n" for path in pages).encode()
