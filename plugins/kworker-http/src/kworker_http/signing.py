"""Signatures and headers of the Standard Webhooks specification, version 1.0.0 (symmetric, `v1`)."""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from urllib.parse import quote

SHORTEST, LONGEST = 24, 64


def read_secret(text: str) -> bytes:
    """The key in `whsec_<base64>`. Raises ValueError, which never shows the secret."""
    prefix, _, encoded = text.strip().partition("_")
    try:
        key = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec" or not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"not a secret: write whsec_ and the base64 of {SHORTEST} to {LONGEST} random bytes")
    return key


def webhook_id(task_id: str) -> str:
    """The task's id as a webhook-id: the same text but for characters that a header or the signature cannot hold.

    Those are percent-encoded. A full stop is one of them: it separates the signed parts, and a publisher may choose
    the id (the specification, "Signature scheme").
    """
    return quote(task_id, safe="/:@=+,~!$&*").replace(".", "%2E")


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three webhook headers; one signature a key, and no signature header without a key."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if keys:
        content = f"{message_id}.{timestamp}.".encode() + body
        headers["webhook-signature"] = " ".join(
            "v1," + b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys
        )
    return headers
