"""How the schema registry is configured: option, environment, table and files, and that its secrets stay secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kworker.config import Config, SchemaRegistrySettings
from kworker.config.config import MASK

URL = "http://registry:8081"
TABLE = """
group = "g"
[schema_registry]
url = "http://registry:8081"
basic_auth_user_info = "me:from-toml"
ca = "ca.pem"
subject = "record"
"""


def read(
    tmp_path: Path, text: str = 'group = "g"', environ: Mapping[str, str] | None = None, **flags: object
) -> tuple[SchemaRegistrySettings | None, list[str]]:
    file = tmp_path / "kworker.toml"
    file.write_text(text)
    config, faults = Config.read(flags, environ or {}, file)
    return config.schema_registry, [fault.replace(str(file), "FILE") for fault in faults]


def test_without_an_address_there_is_none(tmp_path: Path) -> None:
    assert read(tmp_path) == (None, [])


def test_a_table_holds_it_all(tmp_path: Path) -> None:
    settings, faults = read(tmp_path, TABLE)
    assert faults == []
    assert settings == SchemaRegistrySettings(
        url=URL, basic_auth_user_info="me:from-toml", ca="ca.pem", subject="record"
    )


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    environ = {"KWORKER_SCHEMA_REGISTRY": "https://env", "KWORKER_SCHEMA_REGISTRY_CA": "env.pem"}
    settings, _ = read(tmp_path, TABLE, environ)
    assert settings is not None
    assert (settings.url, settings.ca, settings.subject) == ("https://env", "env.pem", "record")
    settings, _ = read(tmp_path, TABLE, environ, schema_registry="https://flag/a/,http://other")
    assert settings is not None
    assert (settings.url, settings.ca) == ("https://flag/a,http://other", "env.pem")


@pytest.mark.parametrize("given", ["value", "file"])
def test_a_secret_of_the_environment_counts_over_the_file_of_the_table(tmp_path: Path, given: str) -> None:
    secret, old = tmp_path / "secret", tmp_path / "old"
    secret.write_text("me:from-a-file\n")
    old.write_text("me:old")
    variable = "KWORKER_SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO"
    environ = {variable: "me:direct"} if given == "value" else {f"{variable}_FILE": str(secret)}
    text = f'group = "g"\n[schema_registry]\nurl = "{URL}"\nbasic_auth_user_info_file = "{old}"\n'
    settings, faults = read(tmp_path, text, environ)
    assert faults == []
    assert settings is not None
    assert settings.basic_auth_user_info == ("me:direct" if given == "value" else "me:from-a-file")
    settings, _ = read(tmp_path, text)
    assert settings is not None
    assert settings.basic_auth_user_info == "me:old"


def test_no_secret_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "kworker.toml"
    file.write_text(TABLE.replace(URL, "http://me:in-the-url@registry"))
    config = Config.load({}, {"KWORKER_SCHEMA_REGISTRY_BEARER_TOKEN": "t0ken"}, file)
    shown = f"{config!r}{config.schema_registry!r}{config.redacted()}"
    for secret in ("from-toml", "in-the-url", "t0ken"):
        assert secret not in shown
    assert config.redacted()["schema_registry"] == {
        "url": f"http://{MASK}@registry",
        "basic_auth_user_info": MASK,
        "bearer_token": MASK,
        "ca": "ca.pem",
        "subject": "record",
    }


@pytest.mark.parametrize(
    ("text", "environ", "fault"),
    [
        ("schema_registry = 5", {}, "FILE: schema_registry: it is not a table"),
        ('schema_registry = "ftp://x"', {}, "FILE: schema_registry: it is not the address of a schema registry"),
        ('schema_registry = "http://"', {}, "FILE: schema_registry: it is not the address of a schema registry"),
        ("", {"KWORKER_SCHEMA_REGISTRY": "http://a:port"}, "KWORKER_SCHEMA_REGISTRY: it is not the address"),
        ("[schema_registry]\nurl = 5", {}, "FILE: schema_registry: it is not the address of a schema registry"),
        (f'[schema_registry]\nurl = "{URL}"\nuser = "x"', {}, "FILE: [schema_registry] user: there is no such key"),
        (f'[schema_registry]\nurl = "{URL}"\nsubject = "x"', {}, "FILE: [schema_registry] subject: 'x' is none of"),
        ('[schema_registry]\nca = "x"', {}, "schema_registry: it is configured without its address"),
        ("", {"KWORKER_SCHEMA_REGISTRY_KEY": "x"}, "schema_registry: it is configured without its address"),
        (
            f'[schema_registry]\nurl = "{URL}"\nbasic_auth_user_info = "s3cret"',
            {},
            "basic_auth_user_info of the schema registry: it is not user:password",
        ),
        (
            f'[schema_registry]\nurl = "{URL}"\nbearer_token_file = "/nowhere"',
            {},
            "FILE: [schema_registry] bearer_token_file: cannot read '/nowhere': No such file",
        ),
    ],
)
def test_what_is_wrong_is_told_without_a_secret(tmp_path: Path, text: str, environ: dict[str, str], fault: str) -> None:
    _, faults = read(tmp_path, f'group = "g"\n{text}', environ)
    assert any(found.startswith(fault) for found in faults), faults
    assert "s3cret" not in str(faults)
