"""An e-mail as bytes: what a reader of them finds, and that nothing of a message becomes a header."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker import Reject
from kworker_email import Attachment
from kworker_email.addresses import parse
from kworker_email.message import Content, Envelope, build, message_id

DATE = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"]
BODY = {"Content-Type", "Content-Transfer-Encoding"}


def read(
    subject: str = "Hi",
    text: str | None = "Hi\n",
    html: str | None = None,
    attachments: list[Attachment] | None = None,
    **mailboxes: Any,
) -> EmailMessage:
    envelope = Envelope(parse("Shop <shop@example.org>"), **{"to": [parse("ada@example.org")], **mailboxes})
    made = build(envelope, Content(subject, text, html), attachments or [], id="<1@example.org>", date=DATE)
    assert made.isascii()
    assert made.replace(b"\r\n", b"").count(b"\n") == made.replace(b"\r\n", b"").count(b"\r") == 0
    assert max(map(len, made.split(b"\r\n"))) <= 998
    parsed = email.message_from_bytes(made, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    assert [defect for part in parsed.walk() for defect in part.defects] == []
    return parsed


def test_the_headers_of_an_e_mail() -> None:
    found = read(
        cc=[parse('"Doe, Jane" <jane@example.org>')],
        bcc=[parse("secret@example.org")],
        reply_to=[parse("Hélène <help@example.org>")],
    )
    assert {name: value for name, value in found.items() if name not in BODY} == {
        "From": "Shop <shop@example.org>",
        "To": "ada@example.org",
        "Cc": '"Doe, Jane" <jane@example.org>',
        "Reply-To": "Hélène <help@example.org>",
        "Subject": "Hi",
        "Date": "Tue, 24 Nov 2026 09:00:00 +0000",
        "Message-ID": "<1@example.org>",
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
    }
    assert "secret" not in str(found)


def test_its_parts() -> None:
    found = read(
        text="plain ü", html="<p>ü</p>", attachments=[Attachment("naïve.png", b"\0\xff\r\n.\r\n", "image/png")]
    )
    assert [part.get_content_type() for part in found.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
    ]
    (attached,) = found.iter_attachments()
    assert (attached.get_filename(), attached.get_content()) == ("naïve.png", b"\0\xff\r\n.\r\n")
    plain, html = found.get_body(("plain",)), found.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert (plain.get_content(), html.get_content()) == ("plain ü\r\n", "<p>ü</p>\r\n")
    assert read(text=None, html="<p>x</p>").get_content_type() == "text/html"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=300))
def test_a_subject_is_one_header_and_comes_back(subject: str) -> None:
    found = read(subject=subject)
    assert [name for name in found if name not in BODY] == HEADERS
    assert found["Subject"].split() == subject.split() or "=?" in subject


@pytest.mark.parametrize("line", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\x0b", "\0", "\ud800"])
def test_a_line_break_in_a_header_is_refused(line: str) -> None:
    with pytest.raises(Reject, match="subject: holds"):
        read(subject=f"Hi{line}Bcc: eve@example.net")
    with pytest.raises(Reject, match=r"attachments\[0\]: name: holds"):
        read(attachments=[Attachment(f"a{line}b", b"")])


@given(st.text(st.sampled_from("a .\r\n\u2028ü=-"), max_size=2000))
def test_a_body_stays_a_body(text: str) -> None:
    found = read(text=text)
    assert [name for name in found if name not in BODY] == HEADERS
    content = found.get_content()
    assert content.replace("\r\n", "\n").rstrip("\n") == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
def test_what_no_body_can_hold_is_refused(text: str) -> None:
    for parts in ({"text": text}, {"text": None, "html": text}):
        with pytest.raises(Reject, match="holds a NUL or half"):
            read(**parts)


@pytest.mark.parametrize(
    "attachment",
    [
        Attachment("", b""),
        Attachment("x" * 256, b""),
        Attachment("x", b"", "image"),
        Attachment("x", b"", "multipart/mixed"),
        Attachment("x", b"", "message/rfc822"),
        Attachment("x", b"", "text/html; charset=x"),
        Attachment("x", b"", "image/png\r\nBcc: eve@example.net"),
    ],
)
def test_an_attachment_has_a_name_and_a_plain_type(attachment: Attachment) -> None:
    with pytest.raises(Reject, match=r"attachments\[0\]"):
        read(attachments=[attachment])


def test_everyone_receives_it_once() -> None:
    ada, bob, cid = (parse(f"{name}@example.org") for name in ("ada", "bob", "cid"))
    envelope = Envelope(ada, [ada, parse("Bob <bob@EXAMPLE.org>")], [bob, ada], [cid])
    assert envelope.recipients == ["ada@example.org", "bob@example.org", "cid@example.org"]


def test_a_message_id_is_the_tasks_and_safe_whatever_the_tasks_id_holds() -> None:
    ids = [message_id(text, "example.org") for text in ("msg_1", "msg_2", "a>\r\nBcc: eve@example.net", "ü\ud800")]
    assert len(set(ids)) == 4
    assert all(len(each) < 80 and each.isprintable() and each.endswith("@example.org>") for each in ids)
    assert ids[0] == message_id("msg_1", "example.org")
