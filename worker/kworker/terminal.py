"""Text for people: what a terminal, or a log, could obey is escaped; rows stand in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def printable(text: str, keep: str = "") -> str:
    """The text with control characters, and all else that has no shape, escaped; those of `keep` stay."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of equal length as lines; columns are as wide as their widest cell. right: those that end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
