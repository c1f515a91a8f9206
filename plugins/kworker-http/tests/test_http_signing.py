"""Signatures: against a known vector, against the specification's own library, and with keys that change over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from kworker_http.signing import read_secret, sign, webhook_id

FIRST = "whsec_" + base64.b64encode(b"first key of at least 24 bytes").decode()
SECOND = "whsec_" + base64.b64encode(b"second key, longer than the first").decode()
BODY = '{"text":"grüße","n":1}'.encode()


def test_the_published_library_accepts_every_key_of_a_rotation() -> None:
    now = int(time.time())
    headers = sign([read_secret(FIRST), read_secret(SECOND)], "msg_1", now, BODY)
    for secret in (FIRST, SECOND):
        assert Webhook(secret).verify(BODY, headers) == {"text": "grüße", "n": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 24).decode()).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(FIRST).verify(BODY + b" ", headers)


def test_the_signature_is_the_hmac_of_id_timestamp_and_body() -> None:
    headers = sign([read_secret(FIRST)], "msg_1", 1700000000, BODY)
    mac = hmac.new(b"first key of at least 24 bytes", b"msg_1.1700000000." + BODY, hashlib.sha256)
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1," + base64.b64encode(mac.digest()).decode(),
    }


def test_without_a_key_there_is_no_signature() -> None:
    assert sign([], "msg_1", 1, BODY) == {"webhook-id": "msg_1", "webhook-timestamp": "1"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "whsec_", "whsec", "c2VjcmV0", "WHSEC_" + FIRST[6:], "whsk_" + FIRST[6:], FIRST[:-1], FIRST + "!"),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_ключ",
    ],
)
def test_a_bad_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="not a secret") as error:
        read_secret(text)
    assert not text[7:] or text[7:] not in str(error.value)


@pytest.mark.parametrize(
    ("task_id", "expected"),
    [
        ("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"),
        ("tasks/0/17", "tasks/0/17"),
        ("orders.v1/0/17", "orders%2Ev1/0/17"),
        ("a%2Eb", "a%252Eb"),
        ("a\r\nX: y", "a%0D%0AX:%20y"),
        ("grüße", "gr%C3%BC%C3%9Fe"),
    ],
)
def test_an_id_fits_a_header_and_the_signed_text(task_id: str, expected: str) -> None:
    assert webhook_id(task_id) == expected
