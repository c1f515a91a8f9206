"""The properties of the Kafka client: `-X key=value` over `KWORKER_KAFKA_<KEY>` over the table `[kafka]`.

Any property may be given as `<property>.file` instead: its value is what the file holds, less one newline at its end.
What came from a file, and what is called like a secret, is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kworker.config.options import shown

PREFIX = "KWORKER_KAFKA_"

_NATIVE_FILES = {
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
}
"""Properties of librdkafka's own whose names end in `.file`."""

_UNDERSCORED = {"log.level": "log_level"}
"""Properties that are written with an underscore."""

_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?$")


@dataclass(slots=True)
class Properties:
    """The properties that count, where each was given, which are secret, and what was wrong with others."""

    values: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    secret: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set this variable for a Service whose name starts with kworker: it is no option of ours."""
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in value)


def properties(flags: Iterable[str], environ: Mapping[str, str], table: Mapping[str, object], file: str) -> Properties:
    """Merge the three sources. flags: the arguments of -X; file: the name of the file that holds `table`."""
    result = Properties()
    chosen: dict[str, tuple[str, str, str]] = {}
    sources = (
        _from_table(table, file, result.faults),
        ((v, _property(v), environ[v]) for v in sorted(environ) if v.startswith(PREFIX) and v != PREFIX),
        _from_flags(flags, result.faults),
    )
    for source in sources:
        layer: dict[str, tuple[str, str, str]] = {}
        for where, given, value in source:
            plain = given if given in _NATIVE_FILES else given.removesuffix(".file")
            if plain in layer and layer[plain][1] != given:
                result.faults.append(f"{where}: {plain} is given here and as {layer[plain][0]}: leave one of them out")
            layer[plain] = (where, given, value)
        chosen |= layer
    for plain, (where, given, value) in chosen.items():
        result.where[plain] = where
        if plain == given:
            result.values[plain] = value
            continue
        result.secret.add(plain)
        try:
            result.values[plain] = re.sub(r"\r?\n\Z", "", Path(value).read_text("utf-8"))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            result.faults.append(f"{where}: cannot read {shown(value)}: {why}")
    return result


def _property(variable: str) -> str:
    name = variable.removeprefix(PREFIX).lower().replace("_", ".")
    return _UNDERSCORED.get(name, name)


def _from_flags(flags: Iterable[str], faults: list[str]) -> Iterator[tuple[str, str, str]]:
    for number, flag in enumerate(flags, 1):
        name, equals, value = flag.partition("=")
        if equals and name.strip():
            yield f"-X {name.strip()}", name.strip(), value
        else:  # not quoted: a mistyped secret would be shown
            faults.append(f"-X number {number}: it is not property=value")


def _from_table(table: Mapping[str, object], file: str, faults: list[str]) -> Iterator[tuple[str, str, str]]:
    for name, value in table.items():
        where = f"{file}: [kafka] {name}"
        if isinstance(value, dict):  # security.protocol = "ssl" without quotes nests in TOML
            yield from _from_table({f"{name}.{inner}": value[inner] for inner in value}, file, faults)
        elif isinstance(value, bool):
            yield where, name, str(value).lower()
        elif isinstance(value, (str, int, float)):
            yield where, name, str(value)
        else:
            faults.append(f"{where}: give a text, a number, true or false")
