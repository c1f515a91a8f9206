"""What the demo publishes, and what must come of each message."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from receiver import BROKEN, CLOSED, ORDERS

from kworker.client import Message
from kworker.task import Reason

TOPIC = "tasks"
WEBHOOKS = 3_000
COMMAND = "count"
"""The command of kworker-shell: appends the task's id, the lines and the bytes of its input to a file."""

_PAGE_LINES = 60
_TEXTS = ("*.md", "*.toml", "Makefile", "worker/**/*.py", "plugins/*/src/**/*.py", "plugins/*/*.md", "tests/**/*.py")


class Piece(NamedTuple):
    """One message. fate: the reason of its dead letter; None if it must succeed. page: lines and bytes to count."""

    message: Message
    fate: Reason | None = None
    page: tuple[int, int] | None = None


def pieces(root: Path, receiver: str) -> dict[str, Piece]:
    """Everything to publish by its id, well mixed. root: the repository; receiver: the URL of the receiver."""
    found = [*_webhooks(receiver), *_pages(root), *_poison(receiver)]
    random.Random("kworker").shuffle(found)
    return {piece.message.id or "": piece for piece in found}


def _webhooks(receiver: str) -> Iterator[Piece]:
    for number in range(1, WEBHOOKS + 1):
        order = {"order": number, "customer": f"customer-{number % 97}", "cents": number * 7 % 10_000}
        yield _webhook(f"order-{number}", receiver + ORDERS, order)
    for number in range(1, 6):
        yield _webhook(f"closed-{number}", receiver + CLOSED, {"customer": number}, Reason.REJECTED)
    for number in range(1, 4):
        yield _webhook(f"broken-{number}", receiver + BROKEN, {"customer": number}, Reason.EXHAUSTED)


def _webhook(name: str, url: str, data: dict[str, object], fate: Reason | None = None) -> Piece:
    payload = {"url": url, "event": "order.paid", "data": data}
    return Piece(Message("http.deliver", payload, key=str(data.get("customer")), id=name), fate)


def _pages(root: Path) -> Iterator[Piece]:
    """Every text of the repository, page by page."""
    for path in sorted({path for pattern in _TEXTS for path in root.glob(pattern)}):
        lines = path.read_text("utf-8").splitlines(keepends=True)
        for start in range(0, len(lines), _PAGE_LINES):
            text = "".join(lines[start : start + _PAGE_LINES])
            name = f"{path.relative_to(root)}:{start + 1}"
            message = Message("shell.run", {"command": COMMAND, "stdin": text}, id=name)
            yield Piece(message, page=(text.count("\n"), len(text.encode())))


def _poison(receiver: str) -> Iterator[Piece]:
    """What no queue is spared: messages that can never be done."""
    url = receiver + ORDERS
    faulty: list[tuple[Reason, str, object]] = [
        (Reason.UNDECODABLE, "http.deliver", b'{"url": "' + url.encode()),  # broken off
        (Reason.UNDECODABLE, "http.deliver", b"[" * 100_000),
        (Reason.UNDECODABLE, "shell.run", b'{"command": "\xff\xfe"}'),
        (Reason.UNROUTABLE, "http.delvier", {"url": url}),
        (Reason.UNROUTABLE, "os.system", "rm -rf /"),
        (Reason.INVALID, "http.deliver", {"url": 42}),
        (Reason.INVALID, "http.deliver", {"url": url, "retries": 3}),
        (Reason.INVALID, "shell.run", None),
        (Reason.REJECTED, "shell.run", {"command": "rm", "args": ["-rf", "/"]}),
        (Reason.REJECTED, "http.deliver", {"url": "http://169.254.169.254/latest/meta-data/"}),
    ]
    for number, (reason, task, payload) in enumerate(faulty, 1):
        headers = {"content-type": "application/json"} if isinstance(payload, bytes) else None
        yield Piece(Message(task, payload, id=f"poison-{number}", headers=headers), reason)
