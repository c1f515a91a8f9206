"""`email.send` over TLS: the log-in, and whose certificate is believed."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from aiosmtpd.smtp import Envelope as Received

from kworker import Retry, testing
from kworker.testing import opened
from kworker_email import Email

HI: dict[str, Any] = {"subject": "Hi", "text": "Hi\n"}
BASE: dict[str, Any] = {"host": "127.0.0.1", "sender": "shop@example.org", "allow": ["*"], "hello": "here"}
context = partial(testing.context, "email.send", seconds=60)
email = partial(opened, Email, **BASE)


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


def test_starttls_and_login(authority: trustme.CA, ca_file: str) -> None:
    with serving(tls_context=tls(authority)) as (server, port):
        login = {"username": "me", "password": "s3cret"}
        with email(port=port, security="starttls", ca_file=ca_file, **login) as made:
            made.send("ada@example.org", **HI, ctx=context())
        assert server.logins == [("me", "s3cret")]
        assert len(server.mails) == 1


def test_tls_from_the_first_byte(authority: trustme.CA, ca_file: str) -> None:
    with serving(ssl_context=tls(authority)) as (server, port):
        with email(port=port, security="tls", ca_file=ca_file) as made:
            made.send("ada@example.org", **HI, ctx=context())
        assert len(server.mails) == 1


def test_a_wrong_password_is_tried_again_and_not_shown(authority: trustme.CA, ca_file: str) -> None:
    with serving(tls_context=tls(authority)) as (server, port):
        wrong = email(port=port, security="starttls", ca_file=ca_file, username="me", password="wr0ng")
        with wrong as made, pytest.raises(Retry, match="535") as error:
            made.send("ada@example.org", **HI, ctx=context())
        assert "wr0ng" not in str(error.value)
        assert base64.b64encode(b"\0me\0wr0ng").decode() not in str(error.value)
        assert server.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_is_not_the_hosts_is_refused(authority: trustme.CA, ca_file: str, security: str) -> None:
    for name, trusted in (("mail.example.org", ca_file), ("127.0.0.1", None)):
        option = "ssl_context" if security == "tls" else "tls_context"
        with serving(**{option: tls(authority, name)}) as (server, port):
            trusting = email(port=port, security=security, ca_file=trusted)
            with trusting as made, pytest.raises(Retry, match="certificate verify failed"):
                made.send("ada@example.org", **HI, ctx=context())
            assert server.mails == []
