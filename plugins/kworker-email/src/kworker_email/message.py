"""An e-mail as bytes: its headers, its parts, and the Message-ID that stays the same however often it is sent. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from msgspec import Struct

from kworker import Reject
from kworker_email.addresses import CONTROL, Mailbox

_POLICY = SMTP.clone(cte_type="7bit")  # goes through every server, also one without 8BITMIME
_TYPE = re.compile(r"(?!multipart/|message/)[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")


class Attachment(Struct, forbid_unknown_fields=True, frozen=True):
    """A file of an e-mail. content: base64 in JSON. type: its media type, without parameters."""

    name: str
    content: bytes
    type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Content:
    """What an e-mail says: a subject, and a text or an HTML part or both."""

    subject: str
    text: str | None
    html: str | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """From whom and to whom; `bcc` receive and are not shown."""

    sender: Mailbox
    to: Sequence[Mailbox]
    cc: Sequence[Mailbox] = ()
    bcc: Sequence[Mailbox] = ()
    reply_to: Sequence[Mailbox] = ()

    @property
    def recipients(self) -> list[str]:
        """The address of everyone who receives it, each once."""
        return list(dict.fromkeys(mailbox.address for mailbox in (*self.to, *self.cc, *self.bcc)))


def message_id(task_id: str, domain: str) -> str:
    """The Message-ID for a task: whatever its id holds, and the same at every attempt."""
    return f"<{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}@{domain}>"


def build(envelope: Envelope, content: Content, attachments: Sequence[Attachment], *, id: str, date: datetime) -> bytes:
    """The e-mail with CRLF line ends, 7-bit throughout. id: its Message-ID. Raises Reject for what it cannot hold."""
    message = EmailMessage(_POLICY)
    message["From"] = _shown(envelope.sender)
    for name in ("to", "cc", "reply_to"):
        if mailboxes := getattr(envelope, name):
            message[name.replace("_", "-").title()] = [_shown(mailbox) for mailbox in mailboxes]
    message["Subject"] = _header("subject", content.subject)
    message["Date"] = date
    message["Message-ID"] = id
    message["Auto-Submitted"] = "auto-generated"  # no out-of-office answers (RFC 3834)
    if content.text is not None:
        message.set_content(_body("text", content.text))
    if content.html is not None and content.text is not None:
        message.add_alternative(_body("html", content.html), subtype="html")
    elif content.html is not None:
        message.set_content(_body("html", content.html), subtype="html")
    for index, attachment in enumerate(attachments):
        name = _header(f"attachments[{index}]: name", attachment.name)
        if not name or len(name) > 255 or not _TYPE.fullmatch(attachment.type):
            raise Reject(f"attachments[{index}]: give a name (255 characters at most) and a type like image/png")
        main, _, sub = attachment.type.partition("/")
        message.add_attachment(attachment.content, maintype=main, subtype=sub, filename=name)
    return message.as_bytes()


def _shown(mailbox: Mailbox) -> Address:
    return Address(mailbox.name, mailbox.local, mailbox.domain)


def _header(where: str, text: str) -> str:
    if CONTROL.search(text):
        raise Reject(f"{where}: holds a line break or another control character")
    return text


def _body(where: str, text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Reject(f"{where}: holds a NUL or half a surrogate pair")
    return text
