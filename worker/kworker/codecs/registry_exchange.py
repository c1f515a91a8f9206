"""Asking a schema registry over HTTP: one connection for the few questions of one lookup.

Promises: it ends within its time whatever the peer does, reads no more than a bound, and tells "there is no such
schema" from every other answer; a login, or the address's password, is in no error.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from kworker.config.schema_registry import SchemaRegistrySettings
from kworker.errors import ConfigError, Unavailable

Get = Callable[[str], Any]
"""Asks for a path; returns the answer's JSON. Raises NotFound, Unavailable, OSError or HTTPException."""

_MOST_BYTES = 4 << 20
_NOT_FOUND = (40401, 40402, 40403)  # subject, version, schema
_LATER = 1.0


class NotFound(Exception):
    """The registry itself says that it has no such thing."""


class Exchange:
    """A connection to `url`, for `timeout` seconds altogether. Use it as a context manager."""

    def __init__(
        self, url: str, settings: SchemaRegistrySettings, context: ssl.SSLContext | None, timeout: float
    ) -> None:
        address = urlsplit(url)
        assert address.hostname is not None, "the configuration has checked it"
        port = address.port or (443 if address.scheme == "https" else 80)
        self.place = f"{address.hostname}:{port}"
        """The address, as errors name it."""
        self._path = address.path
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        user_info = settings.basic_auth_user_info
        if address.username is not None:
            user_info = f"{unquote(address.username)}:{unquote(address.password or '')}"
        if user_info:
            self._headers["Authorization"] = f"Basic {base64.b64encode(user_info.encode()).decode()}"
        elif settings.bearer_token:
            self._headers["Authorization"] = f"Bearer {settings.bearer_token}"
        self._connection = (
            http.client.HTTPSConnection(address.hostname, port, timeout=timeout, context=context)
            if address.scheme == "https"
            else http.client.HTTPConnection(address.hostname, port, timeout=timeout)
        )
        # A peer that sends a byte now and then never reaches the timeout of the socket.
        self._timer = threading.Timer(timeout, self._abort)
        self._timer.daemon = True
        self._over = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        self._connection.close()

    def get(self, path: str) -> Any:
        """See `Get`."""
        if self._connection.sock is None:
            self._connection.connect()
        if self._over:  # while it connected: an address may have several, each tried for the whole timeout
            raise TimeoutError("timed out")
        self._connection.request("GET", self._path + path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read(_MOST_BYTES + 1)
        if len(body) > _MOST_BYTES:
            raise Unavailable(f"its answer has more than {_MOST_BYTES} bytes", _LATER)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if response.status == 200 and answer is not None:
            return answer
        code = answer.get("error_code") if isinstance(answer, dict) else None
        if response.status == 404 and code in _NOT_FOUND:
            raise NotFound
        advice = {401: ": check its user and password", 403: ": its user may not read schemas"}.get(response.status, "")
        raise Unavailable(f"it answered {response.status} {response.reason[:60]}{advice}", _LATER)

    def _abort(self) -> None:
        self._over = True
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):  # it has just been closed
                sock.shutdown(socket.SHUT_RDWR)


def tls(settings: SchemaRegistrySettings) -> ssl.SSLContext | None:
    """How certificates are checked and shown; None when no address is https. Raises ConfigError for unusable files."""
    if "https://" not in settings.url:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key or None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = f"schema_registry: its ca, certificate or key cannot be used: {error}: name PEM files that can be read"
        raise ConfigError([why]) from error
    return context
