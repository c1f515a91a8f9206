"""A page of the documentation as a test reads it: its blocks in order, its files, its commands.

A fenced block whose first line is a comment with a path is that file. The lines of a `console` block that begin with
`$` are commands, the others what the command before them says. Above a block, `<!-- the worker logs -->` says where its
lines are seen, and `<!-- not run: REASON -->` that no test runs it, and why.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(
    r"^(?:<!-- (?:not run: (?P<why>[^\n]+)|(?P<logged>the worker logs)) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_PATH = re.compile(r"(?:#|//|<!--) ([\w./@-]+\.\w+)(?: -->)?")


class Command(NamedTuple):
    """One command of a console block, and the lines shown below it."""

    text: str
    shown: tuple[str, ...]


class Block(NamedTuple):
    """One fenced block. `why`: why no test runs it, or empty. `logged`: the worker's log shows it."""

    kind: str
    text: str
    why: str
    logged: bool
    line: int

    @property
    def path(self) -> str:
        """The file that it is, or empty."""
        found = _PATH.fullmatch(self.text.partition("\n")[0])
        return found[1] if found else ""

    @property
    def commands(self) -> list[Command]:
        """Of a console block, in order."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:], ()))
            else:
                assert found, f"line {self.line}: {line!r} is said by no command"
                found[-1] = Command(found[-1].text, (*found[-1].shown, line))
        return found


class Document:
    """One page. Raises AssertionError for a fence that the test would not see."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text("utf-8")
        self.blocks = [
            Block(
                found["kind"],
                found["text"],
                found["why"] or "",
                bool(found["logged"]),
                self.text.count("\n", 0, found.start()) + 1,
            )
            for found in _FENCE.finditer(self.text)
        ]
        fences = len(re.findall(r"^ *(?:```|~~~)", self.text, re.M))
        assert fences == 2 * len(self.blocks), f"{path}: {fences} fences, {len(self.blocks)} blocks"

    def file(self, path: str) -> str:
        """The block that is this file."""
        (found,) = [block.text for block in self.blocks if block.path == path]
        return found

    def commands(self) -> list[str]:
        """Every command that is run."""
        return [
            command.text
            for block in self.blocks
            if block.kind == "console" and not block.why
            for command in block.commands
        ]
