"""What `kworker dlq` tells people while it deals with letters, and what it asks them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kworker.errors import ConfigError

if TYPE_CHECKING:
    from kworker.dlq.letter import Letter
    from kworker.dlq.settling import Batch, Progress

_MOST_TOLD = 20


def counted(count: int) -> str:
    """How many letters, in words."""
    return f"{count} {'letter' if count == 1 else 'letters'}"


class Telling:
    """Tells people what becomes of the letters."""

    def __init__(self, topic: str, what: str, *, dry_run: bool) -> None:
        self._topic = topic
        self._what = what
        self._dry_run = dry_run
        self._done = 0
        self._left = 0

    def done(self, batch: Batch) -> None:
        """These are dealt with."""
        from kworker.dlq.shown import summary

        self._done += len(batch)
        if not self._dry_run:
            if sys.stderr.isatty():
                click.echo(f"\r{counted(self._done)} {self._what}", nl=False, err=True)
            return
        for letter, record in batch:
            target = ""
            if record is not None:
                partition = record.partition if record.partition >= 0 else "by its key"
                target = f"  -> {record.publication.topic}/{partition}"
            click.echo(f"{summary(letter)}{target}")

    def left(self, letter: Letter, why: str) -> None:
        """This one has to stay."""
        from kworker.terminal import printable

        self._left += 1
        if self._left <= _MOST_TOLD:
            click.echo(f"kworker: {letter.place.argument}: it stays: {printable(why)}", err=True)

    def sum_up(self, progress: Progress) -> None:
        """What came of all of them."""
        if self._left > _MOST_TOLD:
            click.echo(f"kworker: {self._topic}: {counted(self._left - _MOST_TOLD)} more stay", err=True)
        for partition, offset in progress.full.items():
            click.echo(
                f"kworker: {self._topic}/{partition}: it stopped before offset {offset}: too many letters between "
                "there and the oldest unresolved one are resolved to keep track of: replay or purge the oldest first",
                err=True,
            )
        if self._done and not self._dry_run and sys.stderr.isatty():
            click.echo("\r", nl=False, err=True)
        would = "would be " if self._dry_run else ""
        click.echo(f"{self._topic}: {counted(progress.done)} {would}{self._what}")


def confirm(yes: bool, question: str) -> None:
    """Ask on the terminal, unless the answer is known. Raises ConfigError without one, Abort for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError([f"{question} There is no terminal to ask on: --yes says so"])
    click.confirm(question, abort=True)


def echo_json(document: dict[str, Any]) -> None:
    """Print it as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
