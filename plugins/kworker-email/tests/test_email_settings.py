"""The settings of kworker-email: every fault is told at the start, in one line, without the password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kworker import ConfigError
from kworker_email import Email, EmailSettings

BASE: dict[str, Any] = {"host": "localhost", "sender": "Shop <shop@example.org>", "allow": ["*"], "hello": "here"}


def settings(**table: Any) -> EmailSettings:
    return msgspec.convert({**BASE, **table}, EmailSettings)


def faults(**table: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        Email().setup(settings(**table))
    assert all(fault.startswith("plugins.email: ") and "\n" not in fault for fault in error.value.faults)
    assert "s3cret" not in str(error.value)
    return error.value.faults


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"sender": "shop"}, "sender: 'shop' is not one address"),
        ({"sender": "a@example.org, b@example.org"}, "is not one address"),
        ({"allow": ["example.org", "exa mple"]}, "allow: 'exa mple' is not"),
        ({"allow": ["*example.org"]}, "allow: "),
        ({"ca_file": "/no/such/file"}, "ca_file: /no/such/file"),
        ({"password": "s3cret"}, "username: missing"),
        ({"username": "me"}, "give one of the two"),
        ({"username": "me", "password": "s3cret", "password_file": "/x"}, "give one of the two"),
        ({"username": "me", "password": "s3cret", "security": "none"}, "clear text"),
        ({"username": "me", "password": "s3cretü"}, "ASCII"),
        ({"username": "me", "password": ""}, "at least one"),
        ({"username": "me", "password_file": "/no/such/file"}, "password_file: /no/such/file"),
        ({"template_dir": "/no/such/folder"}, "template_dir: /no/such/folder"),
        ({"templates": {"hi": {"subject": "x"}}}, "'hi' has neither a text nor an HTML part"),
        ({"templates": {"hi": {"subject": "x", "text": "a\n{% if %}"}}}, "template hi.txt, line 2: Expected"),
        ({"templates": {"hi": {"subject": "{{ x", "text": "a"}}}, "template hi.subject, line 1: "),
        ({"templates": {"hi": {"subject": "x", "html": "{% include 'nowhere.html' %}"}}}, "template hi.html: nowhere"),
    ],
)
def test_a_fault_is_told_where_it_is(table: dict[str, Any], why: str) -> None:
    (fault,) = faults(**table)
    assert why in fault


def test_every_fault_is_told_at_once() -> None:
    assert len(faults(sender="x", allow=["?"], username="me", templates={"a": {"subject": "{{"}})) == 5


def test_the_password_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret word \n")
    given = settings(username="me", password_file=str(tmp_path / "password"))
    assert given.login() == ("me", "s3cret word ")
    assert "s3cret" not in repr(settings(username="me", password="s3cret"))
    (tmp_path / "password").write_bytes(b"\xff")
    assert "password_file" in faults(username="me", password_file=str(tmp_path / "password"))[0]


def test_setup_connects_to_nothing() -> None:
    plugin = Email()
    plugin.setup(settings(host="127.0.0.1", port=1))
    plugin.teardown()


@pytest.mark.parametrize(
    "table",
    [
        {"host": ""},
        {"allow": []},
        {"security": "ssl"},
        {"port": 0},
        {"hello": "a\r\nb"},
        {"hello": "a\n"},
        {"timeout": 0},
        {"templates": {"a": {"text": "x"}}},
        {"templates": {"a": {"subject": "x", "body": "x"}}},
        {"to": "x"},
    ],
)
def test_settings_are_strict(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**table)


@pytest.mark.parametrize("key", ["host", "sender", "allow"])
def test_what_must_be_given(key: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({name: value for name, value in BASE.items() if name != key}, EmailSettings)
