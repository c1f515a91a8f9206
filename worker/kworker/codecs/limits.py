"""How much one payload may hold. Checked before anything is built from it, so a message costs what it weighs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one payload, each 1 or more; a payload beyond one becomes a dead letter `undecodable`.

    Together they keep what is built from one payload below about 64 MiB. Measured on CPython 3.11: an item
    costs up to 250 bytes however short it is written, a character of a string up to four bytes.
    """

    max_bytes: int = 8 * 1024 * 1024
    """Size of the payload, in bytes."""
    max_depth: int = 64
    """Objects and arrays inside one another."""
    max_items: int = 200_000
    """Elements of all objects and arrays together; an empty one counts as one more."""
    max_digits: int = 4300
    """Digits of one number in a row. CPython's own default, held here too where a plugin has lifted CPython's."""
    small: int = field(init=False)
    """Bytes up to which a payload cannot be beyond any limit but `max_depth`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "small", min(self.max_bytes, self.max_items, self.max_digits))
