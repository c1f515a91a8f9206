"""Somebody who follows a page of the documentation in a folder of their own, against one broker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kit.document import Block, Command, Document
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess

ADDRESS = "127.0.0.1:9092"
"""The broker of every example."""

ADMIN = "127.0.0.1:9464"
"""Where examples expect a worker's admin port."""

DEADLINE = 30.0
_EXIT = re.compile(r"\(exit [1-9]\)")
_SERVES = re.compile(r"kworker (?:--|run\b)")
_LOOKS = re.compile(r"cat |curl |kworker (?:lag|check|dlq ls|dlq show|delayed ls|delayed show|schedule ls)\b")
_VARIES = re.compile(r"[0-9a-f]{8,}|\d{4}-\d\d-\d\dT[\d:.]+Z|\d+(?:\.\d+)?(?:ms|[smhd])\b|\d+\.\d+|\s+")


class Reader:
    """Writes the page's files and types its commands; other tools of this Python are on the path.

    KWORKER_BOOTSTRAP names the broker. Use it as a context: a worker that a page started is stopped with SIGTERM at the
    end, and must have drained.
    """

    def __init__(self, document: Document, folder: Path, bootstrap: str) -> None:
        self.document = document
        self.folder = folder
        self.cwd = folder
        self.bootstrap = bootstrap
        self.worker: WorkerProcess | None = None
        self._said = ""
        self.given = {
            "KWORKER_BOOTSTRAP": bootstrap,
            "KWORKER_REPLY_TOPIC": "replies",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONDONTWRITEBYTECODE": "1",  # a file that is written twice within a second looks the same to it
        }
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("KWORKER_")} | self.given

    def write(self, path: str, text: str | None = None) -> Path:
        """One of the page's files, for this broker."""
        target = self.cwd / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((self.document.file(path) if text is None else text).replace(ADDRESS, self.bootstrap))
        return target

    def words(self, command: str) -> list[str]:
        """A command of the page, with the kworker and the pip of this Python."""
        words = shlex.split(command)
        if words[0] == "kworker":
            return [sys.executable, "-m", *words]
        if words[:2] == ["pip", "install"]:  # beside this environment, not into it, and without a package index
            options = [
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--upgrade",
                "--target",
                f"{self.folder / 'site'}",
            ]
            return [sys.executable, "-m", *words[:2], *options, *words[2:]]
        return ["sh", "-c", command]

    def tell(self, *command: str) -> tuple[int, str]:
        """The exit code of a command, and all that it says."""
        done = subprocess.run(
            command,
            cwd=self.cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, *command: str) -> str:
        """What a command says; it must succeed."""
        code, said = self.tell(*command)
        assert code == 0, f"{command}: {said}"
        return said

    def do(self, beginning: str) -> list[str]:
        """Run every command that begins so, and return what they say."""
        found = [command for command in self.document.commands() if command.startswith(beginning)]
        assert found, beginning
        return [self.run(*self.words(command)) for command in found]

    # -- a whole page -------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Do all that the page says, in order, and see what it shows."""
        for block in self.document.blocks:
            if block.why:
                continue
            if block.path:
                self.write(block.path, block.text)
            elif block.logged:
                self._see(block.text.splitlines())
            elif block.kind == "console":
                self._type(block)

    def _type(self, block: Block) -> None:
        for command in block.commands:
            try:
                self._one(command)
            except AssertionError as error:
                place = f"{self.document.path.name}:{block.line}: $ {command.text}"
                raise AssertionError(f"{place}\n{error}\n{self._log()[-3000:]}") from error

    def _one(self, command: Command) -> None:
        if command.text.startswith("cd "):
            self.cwd = (self.cwd / command.text[3:]).resolve()
        elif _SERVES.match(command.text):
            self._serve(command)
        elif _LOOKS.match(command.text):  # what it shows may take a moment to be so
            try:
                wait_for(lambda: self._answers(command), DEADLINE, "the answer")
            except AssertionError:
                raise AssertionError(f"shown: {command.shown}\nsaid: {self._said}") from None
        else:
            assert self._answers(command), f"shown: {command.shown}\nsaid: {self._said}"

    def _serve(self, command: Command) -> None:
        """Start the worker of the page, in place of the one that runs."""
        self.stop()
        self.worker = WorkerProcess(self.cwd, *shlex.split(command.text)[1:], env=self.given)
        self.worker.wait_ready()
        self._see(command.shown)

    def _see(self, shown: Sequence[str]) -> None:
        """Wait until the worker's log shows these lines."""
        try:
            wait_for(lambda: shows(self._log(), shown), DEADLINE, "the log")
        except AssertionError:
            raise AssertionError(f"{self.document.path.name}: shown: {shown}\nlogged: {self._log()}") from None

    def _log(self) -> str:
        return self.worker.logged() if self.worker else ""

    def _answers(self, command: Command) -> bool:
        """Whether the command says what is shown, and ends with 0 or with the exit code that is shown."""
        text = command.text.replace(ADDRESS, self.bootstrap)
        if ADMIN in text:
            assert self.worker
            text = text.replace(f"http://{ADMIN}", self.worker.url)
        code, self._said = self.tell(*self.words(text))
        wanted = next((int(line[6:-1]) for line in command.shown if _EXIT.fullmatch(line)), 0)
        return code == wanted and shows(self._said, [line for line in command.shown if not _EXIT.fullmatch(line)])

    # -- the end ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the worker as the page would; everything that ran is done and committed."""
        if self.worker:
            self.worker.terminate()
            assert self.worker.wait() == 0, self.worker.logged()
            self.worker.log.unlink()  # the next one's is its own
            self.worker = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self.stop()
        finally:
            if self.worker:
                self.worker.close()


def shows(said: str, shown: Sequence[str]) -> bool:
    """Whether the shown lines are among those said, in order; times, hashes and spaces may differ.

    `...` in a line stands for anything, a line of `...` for any lines.
    """
    lines = iter(_plain(line) for line in said.splitlines())
    patterns = [re.escape(_plain(line)).replace(r"\.\.\.", ".*") for line in shown if line != "..."]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)


def _plain(line: str) -> str:
    return _VARIES.sub(lambda found: " " if found[0].isspace() else "0", line.strip())
