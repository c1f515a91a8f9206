"""The SMTP server: connections that are kept for the next e-mail, and what an answer leads to.

An e-mail goes to all of its recipients or to none: it is sent when the server has accepted every one. So a retry never
sends anybody a second copy, but where the connection broke after the last byte and nobody knows.
"""

from __future__ import annotations

import contextlib
import smtplib
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from kworker import Reject, Retry
from kworker_email.settings import PORTS, EmailSettings

EXCERPT = 500
"""Characters of a server's answer that an error shows."""

_OUR_FAULT = frozenset({530, 534, 535, 538})
"""Answers about the log-in and the encryption: no e-mail is to blame for them, whenever they come."""

_IDLE = 30.0
"""Seconds for which a connection is kept: servers and firewalls forget one, but not so soon."""


class _Timed(smtplib.SMTP):
    """A connection whose time is a budget for all that it sends and reads, not for each."""

    idle_since = 0.0

    def __init__(self, host: str, port: int, hello: str, *, until: float, **tls: Any) -> None:
        self.until = until
        super().__init__(host, port, hello, timeout=self._left(), **tls)

    def _left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if self.sock is not None:
            self.sock.settimeout(left)
        return left

    def send(self, s: Any) -> None:
        self._left()
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        self._left()
        return super().getreply()


class _TimedTLS(_Timed, smtplib.SMTP_SSL):
    """The same, over TLS from its first byte."""


class Relay:
    """One SMTP server; used by many threads at once, each with a connection of its own.

    Raises OSError or ssl.SSLError when `ca_file` cannot be read, ValueError for a log-in that cannot be used.
    """

    def __init__(self, settings: EmailSettings, hello: str) -> None:
        self._host, self._hello = settings.host, hello
        self._port = settings.port or PORTS[settings.security]
        self._security, self._login = settings.security, settings.login()
        self._tls = ssl.create_default_context()
        if settings.ca_file is not None:
            self._tls.load_verify_locations(settings.ca_file)
        self._idle: deque[_Timed] = deque()
        self._lock = threading.Lock()

    def send(self, sender: str, recipients: Sequence[str], message: bytes, until: float) -> None:
        """Send one e-mail; returns when the server has taken it over. until: `time.monotonic()` at which it gives up.

        Raises Retry for no connection, no log-in and 4xx; Reject for 5xx.
        """
        client = self._take(until)
        try:
            _transmit(client, sender, recipients, message)
        except (smtplib.SMTPException, OSError) as error:
            client.close()
            raise Retry(f"{self._host}: {_text(error)}") from error
        except (Reject, Retry):
            self._keep(client)  # in the middle of a transaction: RSET ends it when the connection is taken again
            raise
        self._keep(client)

    def close(self) -> None:
        """Say goodbye on every connection that is kept."""
        with self._lock:
            clients, self._idle = list(self._idle), deque()
        until = time.monotonic() + 1  # for all of them together
        for client in clients:
            client.until = until
            with contextlib.suppress(smtplib.SMTPException, OSError):  # it has gone already
                client.quit()
            client.close()

    def _take(self, until: float) -> _Timed:
        while True:
            with self._lock:
                client = self._idle.pop() if self._idle else None
            if client is None:
                return self._open(until)
            client.until = until
            with contextlib.suppress(smtplib.SMTPException, OSError):  # it broke while it was kept: the next one
                if time.monotonic() - client.idle_since < _IDLE and client.rset()[0] == 250:
                    return client
            client.close()

    def _keep(self, client: _Timed) -> None:
        client.idle_since = now = time.monotonic()
        old = []
        with self._lock:
            self._idle.append(client)
            while now - self._idle[0].idle_since >= _IDLE:
                old.append(self._idle.popleft())
        for each in old:
            each.close()

    def _open(self, until: float) -> _Timed:
        client: _Timed | None = None
        try:
            if self._security == "tls":
                client = _TimedTLS(self._host, self._port, self._hello, context=self._tls, until=until)
            else:
                client = _Timed(self._host, self._port, self._hello, until=until)
            client.ehlo_or_helo_if_needed()
            if self._security == "starttls":
                client.starttls(context=self._tls)
                client.ehlo_or_helo_if_needed()
            if self._login is not None:
                client.login(*self._login)
        except (smtplib.SMTPException, OSError) as error:
            if client is not None:
                client.close()
            raise Retry(f"{self._host}:{self._port}: {_text(error)}") from error
        return client


def _transmit(client: smtplib.SMTP, sender: str, recipients: Sequence[str], message: bytes) -> None:
    size = [f"SIZE={len(message)}"] if client.has_extn("size") else []
    _accepted("the sender", *client.mail(sender, size))
    answers = [(recipient, *client.rcpt(recipient)) for recipient in recipients]
    # The worst answer speaks for the e-mail: with one recipient refused for good, it can never be sent to all.
    for recipient, code, text in sorted(answers, key=lambda answer: -answer[1]):
        _accepted(recipient, code, text)
    answer: tuple[int, bytes | str]
    try:
        answer = client.data(message)
    except smtplib.SMTPDataError as error:  # the answer to DATA itself
        answer = error.smtp_code, error.smtp_error
    _accepted("the e-mail", *answer)


def _accepted(what: str, code: int, text: bytes | str) -> None:
    """Raise Reject or Retry when the answer does not accept `what`."""
    if 200 <= code < 300:
        return
    why = f"{what} was refused: {code} {_clean(text)}"
    raise Reject(why) if code >= 500 and code not in _OUR_FAULT else Retry(why)


def _text(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_clean(error.smtp_error)}"
    return _clean(str(error)) or type(error).__name__


def _clean(text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(char if char.isprintable() else " " for char in words[:EXCERPT])
