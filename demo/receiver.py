"""The other side of the webhooks: a receiver that verifies every signature, is slow at times, and fails at times.

Its log is what the demo believes: a delivery happened when this server answered 200 to it, whatever a worker counted.
"""

from __future__ import annotations

import hmac
import sys
import threading
import time
from base64 import b64encode
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

ORDERS, CLOSED, BROKEN = "/hooks/orders", "/hooks/closed", "/hooks/broken"
"""Takes deliveries, now and then at the second or third try; is gone for good (410); always fails (500)."""

_TOLERANCE = 300  # seconds that a signature may be old
_RETRY_AFTER = 2  # seconds


class Receiver:
    """Runs from its creation until `close()`. `key`: the shared secret of the Standard Webhooks signatures."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._lock = threading.Lock()
        self.answers: dict[str, list[int]] = defaultdict(list)
        """What each webhook-id was answered, in order."""
        self.forged = 0
        """Requests whose signature was wrong: they took no effect."""
        self.early = 0
        """Requests that came back before the time that Retry-After had asked for."""
        self._not_before: dict[str, float] = {}
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str]]:
        """One delivery: the status to answer, and further headers."""
        name, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "0")
        signed = hmac.digest(self._key, f"{name}.{stamp}.".encode() + body, "sha256")
        expected = "v1," + b64encode(signed).decode()
        genuine = any(hmac.compare_digest(expected, given) for given in headers.get("webhook-signature", "").split())
        if not genuine or abs(time.time() - int(stamp)) > _TOLERANCE:
            self.forged += 1
            return HTTPStatus.UNAUTHORIZED, {}
        dice = crc32(name.encode()) % 100
        now = time.monotonic()
        time.sleep(1.0 if dice >= 99 else 0.02 + dice / 2500)  # what a real receiver does meanwhile
        with self._lock:
            answer, more = self._answer(path, dice, len(self.answers[name]))
            self.answers[name].append(answer)
            self.early += now < self._not_before.get(name, now)
            if "Retry-After" in more:
                self._not_before[name] = time.monotonic() + _RETRY_AFTER
        return answer, more

    def _answer(self, path: str, dice: int, earlier: int) -> tuple[int, dict[str, str]]:
        if path == CLOSED:
            return HTTPStatus.GONE, {}
        if path == BROKEN or (dice < 3 and earlier < 2):
            return HTTPStatus.INTERNAL_SERVER_ERROR, {}
        if dice < 8 and not earlier:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(_RETRY_AFTER)}
        return HTTPStatus.OK, {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Delivery)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A worker that is killed breaks its connections off: that is the demo, not a fault of the receiver.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Delivery(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # its worker was killed: half a request is none
            self.close_connection = True
            return
        status, headers = self.server.receiver.take(self.path, self.headers, body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the log is `Receiver.answers`."""
