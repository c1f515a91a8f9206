"""The virtual environment of a peer in Python: made by pip on first use, in the user's cache, every version pinned.

It is below $KWORKER_PEERS_HOME, or ~/.cache/kworker/peers. The adapter is imported by both sides, the benchmark and the
peer's own Python; so what only one of them has is imported where it is used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peer import Missing
from benchmarks.place import Place

PINS = Path(__file__).parent / "peers" / "requirements"
FETCH = 600.0  # seconds for pip


@dataclass(frozen=True, slots=True)
class Environment:
    """One peer's packages. name: of its file of pins. shown: the distributions whose versions say what it is.

    least: the oldest Python that it runs on; that of kworker if it will do.
    """

    name: str
    shown: tuple[str, ...]
    least: tuple[int, int] = (3, 11)

    def program(self, name: str = "python") -> str:
        """The path of a program in it. Raises Missing when it cannot be made."""
        return str(self._home() / "bin" / name)

    def module(self, name: str, *given: str) -> Callable[[Place], list[str]]:
        """The command of a peer whose adapter is also its program."""
        return lambda place: [self.program(), "-m", name, *given]

    def versions(self) -> str:
        """What tables say of it. Raises Missing."""
        pins = dict(line.split("==") for line in self._pins().split())
        python = _version(self.program())
        assert python is not None, "the Python of an environment that is complete"
        return ", ".join([*(f"{name} {pins[name]}" for name in self.shown), f"Python {python}"])

    def _pins(self) -> str:
        return (PINS / f"{self.name}.txt").read_text()

    def _home(self) -> Path:
        from filelock import FileLock  # the peer's own Python has none

        python = interpreter(self.least)
        where = Path(os.environ.get("KWORKER_PEERS_HOME") or "~/.cache/kworker/peers").expanduser()
        home = where / f"{self.name}-{_version(python)}"
        complete = home / "complete"
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{home}.lock"):
            if not (complete.exists() and complete.read_text() == self._pins()):
                _made(home, python, PINS / f"{self.name}.txt")
                complete.write_text(self._pins())
        return home


def _made(home: Path, python: str, pins: Path) -> None:
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in ([python, "-m", "venv", "--clear", str(home)], [*pip, "--requirement", str(pins)]):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH)
        except subprocess.TimeoutExpired:
            raise Missing(f"pip did not install {pins.name} within {FETCH:g} s") from None
        if answer.returncode != 0:
            said = next(reversed(answer.stderr.strip().splitlines()), "nothing said")
            raise Missing(f"pip cannot install {pins.name}: {said[-300:]}")


def interpreter(least: tuple[int, int]) -> str:
    """The path of a Python of at least this version: that of kworker if it will do. Raises Missing."""
    for path in _interpreters():
        version = _version(path)
        if version and tuple(map(int, version.split(".")[:2])) >= least:
            return path
    raise Missing(f"needs Python {least[0]}.{least[1]} or newer: put python{least[0]}.{least[1]} on PATH")


def _interpreters() -> Iterator[str]:
    """This one, those on PATH, those of pyenv, the older ones first."""
    yield sys.executable
    for minor in range(11, 20):
        if found := shutil.which(f"python3.{minor}"):
            yield found
        root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
        yield from map(str, root.glob(f"versions/3.{minor}.*/bin/python3.{minor}"))


def _version(python: str) -> str | None:
    """Such as 3.12.1; None for what does not start, as a shim of pyenv for a Python that is not chosen."""
    answer = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"Python (\d+\.\d+\.\d+)", answer.stdout)
    return found[1] if found and answer.returncode == 0 else None
