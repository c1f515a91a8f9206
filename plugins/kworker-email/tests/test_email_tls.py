"""`email.send` over TLS: the log-in, and whose certificate is believed."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from aiosmtpd.smtp import Envelope as Received

from kworker import Context, Retry
from kworker.task import Task
from kworker_email import Email, EmailSettings

HI: dict[str, Any] = {"subject": "Hi", "text": "Hi\n"}


class Server:
    """What a mail server keeps: who logged in, and to whom e-mails came."""

    def __init__(self) -> None:
        self.mails: list[list[str]] = []
        self.logins: list[tuple[str, str]] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Received) -> str:
        self.mails.append(envelope.rcpt_tos)
        return "250 OK"

    def authenticate(self, server: SMTP, session: Any, envelope: Received, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"s3cret", handled=False)


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[tuple[Server, int]]:
    server = Server()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if "tls_context" in options:
        options |= {"require_starttls": True, "auth_required": True, "authenticator": server.authenticate}
    controller = Controller(server, hostname="127.0.0.1", port=port, ready_timeout=60, **options)
    controller.start()
    try:
        yield server, port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(made)
    return made


def context(*, seconds: float | None = 60) -> Context:
    task = Task("email.send", "tasks", 0, 17, None, None, [], 1_764_000_000_250, given_id="msg_1")
    return Context(task, 1, None if seconds is None else time.monotonic() + seconds)


def plugin(port: int, **table: Any) -> Email:
    base = {"host": "127.0.0.1", "port": port, "sender": "shop@example.org", "allow": ["*"], "hello": "here"}
    made = Email()
    made.setup(msgspec.convert({**base, **table}, EmailSettings))
    return made


def test_starttls_and_login(authority: trustme.CA, ca_file: str) -> None:
    with serving(tls_context=tls(authority)) as (server, port):
        made = plugin(port, security="starttls", username="me", password="s3cret", ca_file=ca_file)
        made.send("ada@example.org", **HI, ctx=context())
        made.teardown()
        assert server.logins == [("me", "s3cret")]
        assert len(server.mails) == 1


def test_tls_from_the_first_byte(authority: trustme.CA, ca_file: str) -> None:
    with serving(ssl_context=tls(authority)) as (server, port):
        made = plugin(port, security="tls", ca_file=ca_file)
        made.send("ada@example.org", **HI, ctx=context())
        made.teardown()
        assert len(server.mails) == 1


def test_a_wrong_password_is_tried_again_and_not_shown(authority: trustme.CA, ca_file: str) -> None:
    with serving(tls_context=tls(authority)) as (server, port):
        made = plugin(port, username="me", password="wr0ng", security="starttls", ca_file=ca_file)
        with pytest.raises(Retry, match="535") as error:
            made.send("ada@example.org", **HI, ctx=context())
        assert "wr0ng" not in str(error.value)
        assert base64.b64encode(b"\0me\0wr0ng").decode() not in str(error.value)
        assert server.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_is_not_the_hosts_is_refused(authority: trustme.CA, ca_file: str, security: str) -> None:
    for name, trusted in (("mail.example.org", ca_file), ("127.0.0.1", None)):
        option = "ssl_context" if security == "tls" else "tls_context"
        with serving(**{option: tls(authority, name)}) as (server, port):
            with pytest.raises(Retry, match="certificate verify failed"):
                plugin(port, security=security, ca_file=trusted).send("ada@example.org", **HI, ctx=context())
            assert server.mails == []
