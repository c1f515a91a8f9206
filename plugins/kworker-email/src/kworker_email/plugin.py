"""The plugin: task `email.send`, and how its settings become a server, templates and permitted recipients."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from kworker import ConfigError, Context, Plugin, Reject, Retry, task
from kworker_email.addresses import Allow, Mailbox, parse
from kworker_email.message import Attachment, Content, Envelope, build, message_id
from kworker_email.relay import Relay
from kworker_email.settings import EmailSettings

_YEAR_10000 = 253402300800
_SPARE = 0.25
"""Seconds of the task's own time kept for what follows the sending."""


class Email(Plugin):
    """Sends e-mails from one sender, by one server, to permitted recipients."""

    Settings: ClassVar[type[msgspec.Struct] | None] = EmailSettings

    def setup(self, settings: EmailSettings) -> None:
        """Read addresses, password and templates; connects to nothing. Raises ConfigError with every finding."""
        from kworker_email.templates import Templates

        faults: list[str] = []
        self._settings = settings
        try:
            self._sender = parse(settings.sender)
        except ValueError as error:
            faults.append(f"plugins.email: sender: {error}")
        try:
            self._allow = Allow(settings.allow)
        except ValueError as error:
            faults.append(f"plugins.email: allow: {error}")
        try:
            self._relay = Relay(settings, settings.hello or socket.getfqdn())
        except OSError as error:
            faults.append(f"plugins.email: ca_file: {settings.ca_file}: {error}")
        except ValueError as error:
            faults.append(f"plugins.email: {error}")
        self._templates = Templates(settings.templates, settings.template_dir, faults)
        if faults:
            raise ConfigError(faults)

    def teardown(self) -> None:
        """Close the connections that are kept."""
        self._relay.close()

    @task("email.send")
    def send(
        self,
        to: str | list[str],
        template: str | None = None,
        variables: dict[str, Any] | None = None,
        subject: str | None = None,
        text: str | None = None,
        html: str | None = None,
        cc: list[str] | None = None,
        bcc: list[str] | None = None,
        reply_to: str | None = None,
        attachments: list[Attachment] | None = None,
        *,
        ctx: Context,
    ) -> dict[str, Any]:
        """Send one e-mail: from the template named `template` with `variables`, or with `subject`, `text` and `html`.

        Returns `{"message_id", "recipients"}`. Raises Reject for recipients that are not permitted, what no e-mail can
        hold, and a server's 5xx; Retry for its 4xx, and when it cannot be reached or logged in to.
        """
        envelope = Envelope(
            self._sender,
            self._recipients("to", [to] if isinstance(to, str) else to),
            self._recipients("cc", cc or ()),
            self._recipients("bcc", bcc or ()),
            [_read("reply_to", reply_to)] if reply_to is not None else [],
        )
        if not envelope.to:
            raise Reject("to: give at least one address")
        if len(envelope.recipients) > self._settings.max_recipients:
            raise Reject(f"{len(envelope.recipients)} recipients: max_recipients is {self._settings.max_recipients}")
        content = self._content(template, variables, subject, text, html)
        identity = message_id(_seed(ctx), self._sender.domain)
        message = build(envelope, content, attachments or (), id=identity, date=_date(ctx))
        if len(message) > self._settings.max_bytes:
            raise Reject(f"{len(message)} bytes: max_bytes is {self._settings.max_bytes}")
        self._relay.send(self._sender.address, envelope.recipients, message, self._until(ctx))
        return {"message_id": identity, "recipients": len(envelope.recipients)}

    def _recipients(self, where: str, texts: Iterable[str]) -> list[Mailbox]:
        mailboxes = [_read(where, text) for text in texts]
        for mailbox in mailboxes:
            if not self._allow.permits(mailbox):
                raise Reject(f"{where}: [plugins.email] allow does not permit {mailbox.address}")
        return mailboxes

    def _content(
        self,
        template: str | None,
        variables: dict[str, Any] | None,
        subject: str | None,
        text: str | None,
        html: str | None,
    ) -> Content:
        if template is not None:
            if any(part is not None for part in (subject, text, html)):
                raise Reject("template: give it, or subject, text and html, not both")
            return self._templates.render(template, variables or {})
        if not self._settings.own_text:
            raise Reject("template: must be given, [plugins.email] own_text is false")
        if variables is not None:
            raise Reject("variables: they belong to a template")
        if subject is None or (text is None and html is None):
            raise Reject("give a template, or a subject with text or html or both")
        return Content(subject, text, html)

    def _until(self, ctx: Context) -> float:
        limit = self._settings.timeout
        if (remaining := ctx.remaining()) is not None:
            limit = min(limit, remaining - _SPARE)
        if limit <= 0 or ctx.cancelled:
            raise Retry("no time is left to send an e-mail")
        return time.monotonic() + limit


def _read(where: str, text: str) -> Mailbox:
    try:
        return parse(text)
    except ValueError as error:
        raise Reject(f"{where}: {error}") from None


def _seed(ctx: Context) -> str:
    # A place is unique in one cluster until its topic is made again; with the record's time it is unique.
    placed = ctx.id == f"{ctx.topic}/{ctx.partition}/{ctx.offset}"
    return f"{ctx.id} {ctx.published_at}" if placed else ctx.id


def _date(ctx: Context) -> datetime:
    # A publisher sets the record's time, and may set it to none or to one beyond the calendar.
    seconds = ctx.published_at if 0 < ctx.published_at < _YEAR_10000 else time.time()
    return datetime.fromtimestamp(int(seconds), UTC)
