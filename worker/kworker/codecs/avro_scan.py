"""What an Avro payload may not do to the worker: a walk over its bytes by its schema, before anything is built.

Promises: `scan` returns, or raises DecodeError, for any bytes; its time and memory are in proportion to the payload,
however much the payload claims to hold; what it lets pass is one whole value of the schema within the limits, every
number in the range of its (logical) type, so that fastavro reads exactly these bytes. Not looked at: UTF-8, UUIDs.

A type is a `Node`; a node of a fixed size is passed in one step, however often it repeats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

from kworker.codecs.limits import Limits
from kworker.core.varint import read_long
from kworker.errors import DecodeError
from kworker.task import Reason


class Scan:
    """One walk. `items`: how many elements, entries and fields may still come."""

    __slots__ = ("data", "deepest", "end", "items")

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data = data
        self.end = len(data)
        self.items = limits.max_items
        self.deepest = limits.max_depth

    def spend(self, items: int) -> None:
        """Count elements before they are walked over: what a count claims costs nothing."""
        self.items -= items
        if self.items < 0:
            refuse("too_many_items", "more elements than are read")

    def length(self, at: int) -> tuple[int, int]:
        """A length in bytes that the data has, and where what it measures begins."""
        length, at = read_long(self.data, at)
        if length < 0:
            refuse("length", "a negative length")
        if length > self.end - at:
            refuse("truncated", "the payload ends before what it announces")
        return length, at

    def descend(self, depth: int) -> int:
        """One record, array or map further in."""
        if depth >= self.deepest:
            refuse("too_deep", f"records, arrays and maps more than {self.deepest} deep")
        return depth + 1


class Node(ABC):
    """One type of a schema.

    size: bytes of a value where all have the same, else None; items: what such a value counts for. height: records,
    arrays and maps inside one another, without those that contain themselves.
    """

    size: int | None = None
    items = 0
    height = 0

    @abstractmethod
    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """Walk over one value that begins at `at`; returns where the next one does."""


class Fixed(Node):
    """Any bytes of one length: null, float, double, fixed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._size = size

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        return _within(scan, at + self._size)


class Boolean(Node):
    """One byte, 0 or 1."""

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        if scan.data[at] > 1:
            refuse("value", "a boolean that is neither 0 nor 1")
        return at + 1


class Number(Node):
    """An int or long within `low` and `high`; `what` names it in a refusal."""

    def __init__(self, low: int, high: int, what: str) -> None:
        self._low = low
        self._high = high
        self._what = what

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        number, at = read_long(scan.data, at)
        if not self._low <= number <= self._high:
            refuse("number", f"a number that is no {self._what}")
        return at


class Text(Node):
    """Bytes or a string, led by its length."""

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        length, at = scan.length(at)
        return at + length


class Decimal(Node):
    """A decimal of `precision` digits, of `fixed` bytes or led by its length."""

    def __init__(self, precision: int, fixed: int | None) -> None:
        self._beyond = 10**precision
        self._longest = self._beyond.bit_length() // 8 + 1
        self._fixed = fixed

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        if self._fixed is None:
            length, at = scan.length(at)
        else:
            length = self._fixed
            _within(scan, at + length)
        until = at + length
        # Its value is looked at only when it is short: what has more bytes than its digits need is refused, unless
        # a fixed size asks for them.
        if self._fixed is None and length > self._longest:
            refuse("number", "a decimal of more digits than its precision")
        if not -self._beyond < int.from_bytes(scan.data[at:until], "big", signed=True) < self._beyond:
            refuse("number", "a decimal of more digits than its precision")
        return until


class Choice(Node):
    """An enum of so many symbols."""

    def __init__(self, symbols: int) -> None:
        self._symbols = symbols

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        index, at = read_long(scan.data, at)
        if not 0 <= index < self._symbols:
            refuse("index", "an enum's symbol that its schema does not have")
        return at


class Union(Node):
    """One of several types, led by which."""

    def __init__(self, branches: Sequence[Node]) -> None:
        self._branches = branches
        self.height = max(branch.height for branch in branches)

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        index, at = read_long(scan.data, at)
        if not 0 <= index < len(self._branches):
            refuse("index", "a union's branch that its schema does not have")
        return self._branches[index].skip(scan, at, depth)


class Blocks(Node):
    """An array or, with keys, a map: blocks of elements, each led by how many, the last by 0."""

    def __init__(self, element: Node, *, keys: bool) -> None:
        self._element = element
        self._keys = keys
        self.height = 1 + element.height

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        depth = scan.descend(depth)
        while True:
            count, at = read_long(scan.data, at)
            if not count:
                return at
            if count > 0:
                at = self._block(scan, at, depth, count)
                continue
            length, at = scan.length(at)
            until = at + length
            at = self._block(scan, at, depth, -count)
            if at != until:  # fastavro does not look at this length; another reader might jump by it
                refuse("length", "a block of another length than it says")

    def _block(self, scan: Scan, at: int, depth: int, count: int) -> int:
        element = self._element
        scan.spend(count)
        if self._keys:
            for _ in range(count):
                length, at = scan.length(at)
                at = element.skip(scan, at + length, depth)
            return at
        if element.size is not None:
            scan.spend(count * element.items)
            return _within(scan, at + count * element.size)
        for _ in range(count):
            at = element.skip(scan, at, depth)
        return at


class Record(Node):
    """Fields in a row. Made before its fields are known, as one of them may hold it again."""

    def __init__(self) -> None:
        self._fields: Sequence[Node] = ()
        self._cost = 0

    def complete(self, fields: Sequence[Node]) -> None:
        """Called once, with its fields in order."""
        self._fields = fields
        self.height = 1 + max((field.height for field in fields), default=0)
        sizes = [field.size for field in fields if field.size is not None]
        self._cost = 1 + len(fields)
        if len(sizes) == len(fields):
            self.size = sum(sizes)
            self.items = self._cost + sum(field.items for field in fields)

    def skip(self, scan: Scan, at: int, depth: int) -> int:
        """See Node."""
        if self.size is not None:
            scan.spend(self.items)
            return _within(scan, at + self.size)
        depth = scan.descend(depth)
        scan.spend(self._cost)
        for field in self._fields:
            at = field.skip(scan, at, depth)
        return at


def scan(root: Node, value: bytes, start: int, limits: Limits) -> None:
    """Raise DecodeError unless `value`, from `start`, is exactly one value of `root` within `limits`."""
    if len(value) > limits.max_bytes:
        refuse("too_large", f"payload of {len(value)} bytes: at most {limits.max_bytes} are read")
    try:
        end = root.skip(Scan(value, limits), start, 0)
    except IndexError:
        refuse("truncated", "the payload ends within a value")
    except OverflowError as error:
        refuse("number", str(error))
    if end != len(value):
        refuse("trailing", f"{len(value) - end} bytes follow the value")


def refuse(code: str, why: str) -> NoReturn:
    """Raise the DecodeError of a payload that cannot be read."""
    raise DecodeError(Reason.UNDECODABLE, code, f"Avro: {why}")


def _within(scan: Scan, at: int) -> int:
    if at > scan.end:
        refuse("truncated", "the payload ends within a value")
    return at
