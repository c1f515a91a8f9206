"""Which texts are one address, and who may receive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker_email.addresses import Allow, Mailbox, parse


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("ada@example.org", Mailbox("ada", "example.org")),
        ("Ada.L+x@EXAMPLE.org", Mailbox("Ada.L+x", "example.org")),
        ("root@localhost", Mailbox("root", "localhost")),
        ("x@xn--bcher-kva.example", Mailbox("x", "xn--bcher-kva.example")),
        ("<ada@example.org>", Mailbox("ada", "example.org")),
        ("Ada Lovelace <ada@example.org>", Mailbox("ada", "example.org", "Ada Lovelace")),
        ('"Lovelace, Ada" <ada@example.org>', Mailbox("ada", "example.org", "Lovelace, Ada")),
        ("Ada Lövelace 💌 <ada@example.org>", Mailbox("ada", "example.org", "Ada Lövelace 💌")),
    ],
)
def test_one_address_is_read(text: str, mailbox: Mailbox) -> None:
    assert parse(text) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@example.org, bob@example.org",
        "ada@example.org bob@example.org",
        "a@b@example.org",
        "ada@example..org",
        "ada@-example.org",
        "ada@example.org.",
        "ada@[127.0.0.1]",
        ".ada@example.org",
        "a..da@example.org",
        '"ada"@example.org',
        "ädä@example.org",
        "ada@exämple.org",
        "ada@example.org\r\nBcc: eve@example.net",
        "Ada\r\nBcc: eve@example.net <ada@example.org>",
        "Ada\u2028 <ada@example.org>",
        "Ada\x85 <ada@example.org>",
        "ada@example.org\n",
        "ada@example.org\0",
        "eve@example.net <ada@example.org>",
        "Ada <ada@example.org> <eve@example.net>",
        "a" * 65 + "@example.org",
        "ada@" + "a" * 64 + ".org",
        "ada@" + "a." * 127 + "org",
    ],
)
def test_anything_else_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"control character|is not one address") as error:
        parse(text)
    assert "\n" not in str(error.value)


@given(st.text(st.sampled_from('a@.<>"\r\n\0 \u2028,;:é-*'), max_size=20))
def test_what_is_read_is_safe_to_send(text: str) -> None:
    try:
        mailbox = parse(text)
    except ValueError:
        return
    assert mailbox.address.isascii()
    assert mailbox.address.count("@") == 1
    assert not set(mailbox.address) & set(' \r\n<>",;')
    assert not set(mailbox.name) & set("\r\n\0\u2028<>")


@pytest.mark.parametrize(
    ("entries", "permitted", "refused"),
    [
        (["*"], ["ada@example.org", "x@localhost"], []),
        (["example.org"], ["ada@example.org", "ada@EXAMPLE.ORG"], ["ada@mail.example.org", "ada@badexample.org"]),
        (["*.example.org"], ["ada@a.example.org", "ada@b.a.example.org"], ["ada@example.org", "ada@xexample.org"]),
        (["Ada@Example.org"], ["ada@example.org"], ["bob@example.org"]),
        (["a.example", "*.b.example"], ["x@a.example", "x@c.b.example"], ["x@b.example", "x@a.example.org"]),
    ],
)
def test_who_may_receive(entries: list[str], permitted: list[str], refused: list[str]) -> None:
    allow = Allow(entries)
    assert all(allow.permits(parse(text)) for text in permitted)
    assert not any(allow.permits(parse(text)) for text in refused)
