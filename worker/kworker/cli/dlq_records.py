"""The records that `kworker dlq replay` puts back: made of letters, their payloads changed if the user wants it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kworker.config import Config
from kworker.errors import ConfigError

if TYPE_CHECKING:
    from kworker.dlq.choice import Choice
    from kworker.dlq.letter import Letter
    from kworker.dlq.letters import Letters
    from kworker.dlq.restore import Restored


def made(
    config: Config,
    letters: Letters,
    partitions: dict[str, int],
    to: str | None,
    most: int,
    value: bytes | None,
    letter: Letter,
) -> Restored:
    """The record to put back for a letter; raises Refusal. partitions: of the topics that were asked for before."""
    from kworker.cli.replay import read
    from kworker.dlq.restore import KEY_DECIDES, Refusal, changed, origin_of, restored, whole

    if letter.truncated is not None:
        try:
            letter = whole(letter, read(config, origin_of(letter)))
        except ConfigError as error:
            raise Refusal(f"it is truncated, and the rest is not to be had: {error}") from error
    if value is not None:
        letter = changed(letter, value)
    record = restored(letter, to, most)
    topic = record.publication.topic
    if topic.startswith("__") or config.is_own(topic) or topic == letters.topic:
        raise Refusal(f"it says that it came from {topic}, which takes no tasks: name a topic with --to")
    if topic not in partitions:
        partitions[topic] = letters.partitions_of(topic)
    if not partitions[topic]:
        raise Refusal(f"there is no topic {topic}: create it, or name another with --to")
    return record if record.partition < partitions[topic] else record._replace(partition=KEY_DECIDES)


def only(letters: Letters, choice: Choice) -> Letter:
    """The one letter that is meant. Raises UsageError when it is not one."""
    found = list(islice((letter for letter, _ in letters.from_the_first() if choice.takes(letter)), 2))
    if len(found) != 1:
        count = "several are" if found else "no unresolved letter is"
        raise click.UsageError(f"a payload is changed of exactly one letter, and {count} meant: name its place")
    return found[0]


def edited(letter: Letter) -> bytes:
    """The payload as the user wrote it in $EDITOR. Raises UsageError, or Abort when nothing was changed."""
    import msgspec

    value = letter.value or b""
    if letter.truncated is not None:
        raise click.UsageError("this letter is truncated: give its whole payload with --payload @FILE")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError("its payload is no text: give another with --payload @FILE") from error
    written = click.edit(text.encode(), extension=".json", require_save=True)
    if written is None:
        raise click.ClickException("nothing was written, so nothing was put back")
    if not text.endswith("\n"):
        written = written.removesuffix(b"\n")  # which editors add
    kind = (dict(letter.headers).get("content-type") or b"application/json").lower()
    if b"json" in kind:
        try:
            msgspec.json.decode(written)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise click.ClickException(f"what was written is not JSON, so nothing was put back: {error}") from error
    return written


def from_file(given: str) -> bytes:
    """The bytes that `--payload` names. Raises UsageError."""
    if not given.startswith("@"):
        raise click.UsageError("--payload takes @FILE")
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--payload: cannot read {given[1:]}: {error.strerror}") from error
