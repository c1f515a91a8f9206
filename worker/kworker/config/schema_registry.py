"""The schema registry: its address as an option, the rest by `KWORKER_SCHEMA_REGISTRY_<KEY>` over `[schema_registry]`.

Secrets may stand in a file: `basic_auth_user_info_file`, `bearer_token_file`. They are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kworker.config.options import one_of, shown, words

PREFIX = "KWORKER_SCHEMA_REGISTRY_"
_SECRETS = ("basic_auth_user_info", "bearer_token")
_READERS: dict[str, Callable[[object, bool], object]] = {
    "basic_auth_user_info": words,
    "bearer_token": words,
    "ca": words,
    "certificate": words,
    "key": words,
    "subject": one_of("topic", "record", "topic-record"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaRegistrySettings:
    """How to reach a Confluent-compatible schema registry.

    url: one address, or several of one registry with commas. basic_auth_user_info: `user:password`. ca, certificate,
    key: PEM files for TLS. subject: which subject a schema must belong to: `<topic>-value` (topic), the record's full
    name (record), or `<topic>-<full name>` (topic-record).
    """

    url: str = field(repr=False)  # it may hold a password
    basic_auth_user_info: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    subject: Literal["topic", "record", "topic-record"] = "topic"

    def redacted(self, mask: str) -> dict[str, object]:
        """Every setting that is given, secrets masked."""
        given = {name: value for name, value in asdict(self).items() if value}
        return {name: mask if name in _SECRETS else value for name, value in given.items()}


def settings(
    url: str, environ: Mapping[str, str], table: Mapping[str, object], file: str, faults: list[str]
) -> SchemaRegistrySettings | None:
    """The settings beside the url; None when there is no url. `table`: [schema_registry] of `file`, without it."""
    values: dict[str, object] = {}
    known = [*_READERS, *(f"{name}_file" for name in _SECRETS)]
    for key in table:
        if key not in known:
            faults.append(f"{file}: [schema_registry] {key}: there is no such key; there are: url, {', '.join(known)}")
    for name, read in _READERS.items():
        found = next(_given(name, environ, table, file), None)
        if found is None:
            continue
        where, raw, is_file = found
        try:
            values[name] = _content(raw) if is_file else read(raw, True)
        except ValueError as error:  # a secret is not quoted
            faults.append(f"{where}: {'it is not a text' if name in _SECRETS and not is_file else error}")
    user_info = str(values.get("basic_auth_user_info", ":"))
    if ":" not in user_info:
        faults.append("basic_auth_user_info of the schema registry: it is not user:password")
    if not url:
        if table or any(PREFIX + key.upper() in environ for key in known):
            faults.append("schema_registry: it is configured without its address: give --schema-registry URL, or url")
        return None
    return SchemaRegistrySettings(url=url, **values)  # type: ignore[arg-type]  # each was read by its own reader


def _given(
    name: str, environ: Mapping[str, str], table: Mapping[str, object], file: str
) -> Iterator[tuple[str, object, bool]]:
    """Where a setting is given, what is given there, and whether that is a file; the one that counts comes first."""
    keys = ((name, False), (f"{name}_file", True))[: 2 if name in _SECRETS else 1]
    for key, is_file in keys:
        variable = PREFIX + key.upper()
        if variable in environ:
            yield variable, environ[variable], is_file
    for key, is_file in keys:
        if key in table:
            yield f"{file}: [schema_registry] {key}", table[key], is_file


def _content(path: object) -> str:
    """What a secret's file holds, less one newline at its end."""
    try:
        return re.sub(r"\r?\n\Z", "", Path(str(path)).read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"cannot read {shown(path)}: {why}") from None
