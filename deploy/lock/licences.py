"""Lists the licence of everything in the image, as its own metadata tells it; ends with 1 when nobody decided on one.

`make lock` runs it, in an environment where what is locked is installed; it writes licences.md beside this file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
LOCK = FOLDER / "image.txt"
LIST = FOLDER / "licences.md"

FREE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-CMU", "PSF-2.0"}
"""Licences (SPDX) that ask for their notice, and nothing of whoever runs the image or builds on it."""

DECIDED = {
    ("certifi", "MPL-2.0"): "a file of certificates, passed on unchanged; MPL asks for changes to its own files only",
}
"""Others, each with the distribution that it was looked at for, and why it may be in the image."""

_MEANT = {
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}


class Part(NamedTuple):
    """A distribution of the image. licence: an SPDX expression, or what its metadata says instead."""

    name: str
    version: str
    licence: str

    def undecided(self) -> list[str]:
        """Its licences that nobody decided on. Of several, all must be free, even if one may choose."""
        told = re.split(r"\s+(?:AND|OR)\s+", self.licence.strip("()")) if self.licence else ["unknown"]
        return [one for one in told if one not in FREE and (self.name, one) not in DECIDED]


def pins(lock: str) -> Iterator[tuple[str, str]]:
    """Name and version of every distribution of a lock."""
    yield from re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.M)


def parts() -> list[Part]:
    """What is locked, with the licences of what is installed here in these versions."""
    found = []
    for name, version in pins(LOCK.read_text("utf-8")):
        told = metadata(name)
        if told["Version"] != version:
            raise SystemExit(f"licences: {name} {told['Version']} is installed here, {version} is locked: make venv")
        found.append(Part(name, version, _licence(told)))
    return found


def _licence(told: PackageMetadata) -> str:
    fields = told.json
    if expression := fields.get("license_expression"):
        return str(expression)
    named = [line for line in fields.get("classifier", []) if line.startswith("License ::")]
    text = str(fields.get("license", "")).strip()
    if named and (len(named) > 1 or not text):
        return " AND ".join(_MEANT.get(line, line) for line in named)
    return _MEANT.get(text, text)


def listed(found: list[Part]) -> str:
    """The list, as Markdown."""
    rows = [f"| {one.name} | {one.version} | {one.licence} |" for one in found]
    why = [f"- {name}, {licence}: {reason}." for (name, licence), reason in DECIDED.items()]
    head = "# Licences of what is in the image\n\nWritten by `make lock`. kworker and its plugins are under Apache-2.0."
    return "\n".join([head, "", "| distribution | version | licence |", "|---|---|---|", *rows, "", *why]) + "\n"


def main() -> int:
    """Write the list. 1 when a licence is unknown, or asks for more than a notice and was not decided on."""
    found = parts()
    LIST.write_text(listed(found), "utf-8")
    for one in found:
        for licence in one.undecided():
            print(f"licences: {one.name} {one.version} is under {licence}: decide on it in {__file__}", file=sys.stderr)
    return 1 if any(one.undecided() for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
