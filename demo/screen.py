"""What the demo shows: events, one live line below them on a terminal (plain lines elsewhere), and a table."""

from __future__ import annotations

import shutil
import sys
import time

_EVERY, _EVERY_PLAIN = 0.1, 2.0
_BAR = 24


class Screen:
    """Owns standard output."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._live = sys.stdout.isatty()
        self._shown = 0.0
        self._line = ""
        fancy = (sys.stdout.encoding or "").lower().startswith("utf")
        self._full, self._empty = ("█", "░") if fancy else ("#", ".")

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._since

    def say(self, text: str = "") -> None:
        """A line that stays."""
        self._put("")
        print(text, flush=True)

    def event(self, text: str) -> None:
        """A line that stays, with its time."""
        self.say(f"{self.seconds:6.1f} s  {text}")

    def progress(self, done: int, of: int, more: str) -> None:
        """The live line; elsewhere than on a terminal a plain line now and then."""
        now = time.monotonic()
        if now - self._shown < (_EVERY if self._live else _EVERY_PLAIN):
            return
        self._shown = now
        filled = _BAR * done // max(of, 1)
        bar = self._full * filled + self._empty * (_BAR - filled)
        line = f"{self.seconds:6.1f} s  {bar} {done:,} of {of:,}   {more}"
        if self._live:
            self._put(line[: shutil.get_terminal_size().columns - 1])
        else:
            print(line, flush=True)

    def numbers(self, rows: list[tuple[str, int, str]]) -> None:
        """Name, number and remark of each row."""
        widest = max(len(f"{number:,}") for _, number, _ in rows)
        self.list([(name, f"{number:>{widest},}   {remark}") for name, number, remark in rows])

    def list(self, rows: list[tuple[str, str]]) -> None:
        """Name and text of each row."""
        widest = max(len(name) for name, _ in rows)
        for name, text in rows:
            self.say(f"  {name:<{widest}}  {text}".rstrip())

    def _put(self, line: str) -> None:
        """Replace the live line."""
        if self._live and (line or self._line):
            print(f"\r\x1b[K{line}", end="", flush=True)
            self._line = line
