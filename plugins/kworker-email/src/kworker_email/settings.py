"""What `[plugins.email]` of kworker.toml may say. The password shows in no repr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Security = Literal["starttls", "tls", "none"]

PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
"""The port of each kind of connection, unless the settings name one."""


class Template(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The parts of an e-mail as Jinja2 templates: a subject, and a text or an HTML part or both."""

    subject: str
    text: str | None = None
    html: str | None = None


class EmailSettings(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The settings of kworker-email.

    host, port, security: the SMTP server. username, password, password_file: for its log-in. ca_file: PEM file of
    authorities trusted beside the system's. hello: the name given to the server, this host's when absent.
    sender: of every e-mail, `Name <local@domain>` or the address alone.
    allow: who may receive: `*`, domains (`example.org`, `*.example.org`) and addresses.
    templates, template_dir: by the name that a message gives; a folder of `<name>.subject`, `.txt` and `.html`.
    own_text: whether a message may bring its own subject and text. timeout: seconds for one whole attempt.
    max_recipients: of one e-mail. max_bytes: of one e-mail, with its attachments as they are encoded.
    """

    host: Annotated[str, Meta(min_length=1)]
    sender: str
    allow: Annotated[list[str], Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    security: Security = "starttls"
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    hello: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.:\[\]-]{1,255}\Z")] | None = None
    templates: dict[str, Template] = {}
    template_dir: str | None = None
    own_text: bool = True
    timeout: Seconds = 60.0
    max_recipients: Annotated[int, Meta(ge=1, le=1000)] = 50
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 10 << 20

    def __repr__(self) -> str:
        return f"{type(self).__name__}(host={self.host!r}, sender={self.sender!r})"

    def login(self) -> tuple[str, str] | None:
        """User name and password, or None for no log-in. Raises ValueError, one line, when they cannot be used."""
        if self.username is None:
            if self.password is None and self.password_file is None:
                return None
            raise ValueError("username: missing beside the password")
        if (self.password is None) == (self.password_file is None):
            raise ValueError("password, password_file: give one of the two with username")
        if self.security == "none":
            raise ValueError('security: "none" with a password: it would travel in clear text')
        password = self.password or ""
        if self.password_file is not None:
            try:
                password = Path(self.password_file).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeError) as error:
                raise ValueError(f"password_file: {self.password_file}: {error}") from None
        if not (password and password.isascii() and self.username.isascii()):
            raise ValueError("username, password: must be ASCII characters, at least one")
        return self.username, password
