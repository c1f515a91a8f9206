"""kworker-email: send an e-mail by SMTP, its text from a configured template or from the message."""

from __future__ import annotations

from kworker_email.message import Attachment
from kworker_email.plugin import Email
from kworker_email.settings import EmailSettings, Template

__all__ = ["Attachment", "Email", "EmailSettings", "Template"]
