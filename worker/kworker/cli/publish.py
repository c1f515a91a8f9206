"""`kworker publish`: a task, or one for each line of a file, each acknowledged before it is told of."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
import msgspec
from msgspec.structs import replace

from kworker.cli.options import config_options, sources
from kworker.config import Config
from kworker.core.publication import message as compose
from kworker.duration import seconds

if TYPE_CHECKING:
    from kworker.client import Client, Message, Published
    from kworker.errors import PublishError

READ = 1 << 20
CHUNK = 1_000
LONGEST = 100_000_000
"""Bytes of one read, lines published together, and bytes of the longest line: what bounds memory."""


@click.command()
@click.argument("task")
@click.argument("payload", required=False)
@click.option("--topic", metavar="NAME", help="Topic to publish to. [default: the one that is configured, or tasks]")
@click.option("--key", help="Key: messages of one key have one partition, and an order.")
@click.option("--id", "id_", metavar="ID", help="Id of the message. [default: made up]")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Header of the message; repeatable.")
@click.option("--file", "file", metavar="FILE|-", help="Publish one payload a line; blank lines are skipped.")
@click.option("--raw", is_flag=True, help="Send the payload's bytes as they are, JSON or not.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a message.")
@click.option("--timeout", default="30s", show_default=True, metavar="DURATION", help="How long a message may take.")
@config_options("bootstrap")
def publish(
    task: str,
    payload: str | None,
    topic: str | None,
    key: str | None,
    id_: str | None,
    headers: tuple[str, ...],
    file: str | None,
    raw: bool,
    as_json: bool,
    timeout: str,
    **flags: Any,
) -> None:
    """Publish TASK with PAYLOAD and print topic/partition/offset once the broker has acknowledged it.

    PAYLOAD is JSON text, @FILE, or - for standard input; without one the message has none. --file publishes many:
    on a terminal it shows a progress bar instead of each place. Exit code 1 when a message was not acknowledged, 2
    when it cannot be sent; a file's lines before the faulty one are published.
    """
    from kworker.client import Client, Message
    from kworker.kafka.settings import faults

    if file is not None and (payload is not None or id_ is not None):
        raise click.UsageError("--file gives the payload of every message, and each gets an id of its own")
    config = Config.load(*sources({**flags, "topic": (topic,) if topic else ()}), vet=faults, group_needed=False)
    message = Message(
        task,
        None if payload is None else _payload(_read(payload), raw, "PAYLOAD"),
        _topic(config),
        None if key is None else os.fsencode(key),
        id_,
        dict(map(_header, headers)),
    )
    sample = message if file is None else replace(message, payload=b"" if raw else msgspec.Raw(b"0"))
    limit = _checked(sample, timeout)
    with Client(config.bootstrap, kafka=_properties(config), timeout=limit) as client:
        if file is None:
            done = client.publish(
                task, message.payload, topic=message.topic, key=message.key, id=id_, headers=message.headers
            )
            _print([(1, done)], task, as_json)
        else:
            sys.exit(_publish_lines(client, message, file, raw, as_json))


def _checked(sample: Message, timeout: str) -> float:
    """Seconds of `timeout`. Raises UsageError for what is wrong with it or with the message."""
    try:
        compose(
            sample.task,
            sample.payload,
            topic=sample.topic or "",
            key=sample.key,
            id="-" if sample.id is None else sample.id,
            headers=sample.headers,
            now=0,
        )
        return seconds(timeout)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _publish_lines(client: Client, message: Message, file: str, raw: bool, as_json: bool) -> int:
    """Publish a payload a line; returns the exit code. Raises UsageError at the first line that is no payload."""
    from kworker.client import Published

    failed = done = 0
    with ExitStack() as stack:
        stream, size = _open(file, stack)
        bar = None
        if size and sys.stderr.isatty():
            bar = stack.enter_context(click.progressbar(length=size, label=file, file=sys.stderr))
        for chunk in _chunks(stream, file):
            fault = None
            batch: list[tuple[int, Message]] = []
            for number, line in chunk:
                try:
                    if line.strip():
                        batch.append((number, replace(message, payload=_payload(line, raw, f"{file}, line {number}"))))
                except click.UsageError as error:
                    fault = error
                    break
            results = [(n, r) for (n, _), r in zip(batch, _results(client, batch), strict=True)]
            published = [(n, r) for n, r in results if isinstance(r, Published)]
            if bar is None or not sys.stdout.isatty():
                _print(published, message.task, as_json)
            done += len(published)
            failed += _complain(file, [(n, str(r)) for n, r in results if not isinstance(r, Published)])
            if fault is not None:
                raise fault
            if results and not published:
                click.echo(f"kworker: {file}: the lines after {chunk[-1][0]} were not tried", err=True)
                break
            if bar is not None:
                bar.update(sum(len(line) + 1 for _, line in chunk))
    if bar is not None:
        click.echo(f"{done} messages published", err=True)
    return 1 if failed else 0


def _results(client: Client, batch: list[tuple[int, Message]]) -> Sequence[Published | PublishError]:
    from kworker.errors import PublishError

    try:
        return client.publish_many(message for _, message in batch)
    except PublishError as error:
        return error.results


def _complain(file: str, failed: list[tuple[int, str]]) -> int:
    """Tell which lines failed, those in a row for the same reason together; returns how many."""
    for why, group in groupby(failed, key=lambda entry: entry[1]):
        numbers = [number for number, _ in group]
        lines = f"line {numbers[0]}" if len(numbers) == 1 else f"lines {numbers[0]} to {numbers[-1]}"
        click.echo(f"kworker: {file}, {lines}: {why}", err=True)
    return len(failed)


def _print(published: list[tuple[int, Published]], task: str, as_json: bool) -> None:
    if as_json:
        lines = [_json({"task": task, "line": number, **msgspec.structs.asdict(done)}) for number, done in published]
    else:
        lines = [str(done) for _, done in published]
    if lines:
        click.echo("\n".join(lines))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _open(file: str, stack: ExitStack) -> tuple[BinaryIO, int]:
    """The stream and its size in bytes; 0 when that is not known."""
    if file == "-":
        return click.get_binary_stream("stdin"), 0
    try:
        stream = stack.enter_context(Path(file).open("rb"))
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from error
    status = os.fstat(stream.fileno())
    return stream, status.st_size if stat.S_ISREG(status.st_mode) else 0


def _chunks(stream: BinaryIO, file: str) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines as they come, so that a pipe is published while it is written."""
    read = cast(BufferedReader, stream).read1  # returns what is there, without waiting for all that was asked
    number, rest = 1, b""
    while data := read(READ):
        *lines, rest = (rest + data).split(b"\n")
        for start in range(0, len(lines), CHUNK):
            chunk = lines[start : start + CHUNK]
            yield list(enumerate(chunk, number))
            number += len(chunk)
        if len(rest) > LONGEST:
            raise click.UsageError(f"{file}, line {number}: it is longer than {LONGEST} bytes")
    if rest:
        yield [(number, rest)]


def _read(payload: str) -> bytes:
    if payload == "-":
        return click.get_binary_stream("stdin").read()
    if not payload.startswith("@"):
        return os.fsencode(payload)
    try:
        return Path(payload[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"PAYLOAD: cannot read {payload[1:]}: {error.strerror}") from error


def _payload(data: bytes, raw: bool, where: str) -> bytes | msgspec.Raw:
    """The bytes, or JSON text that is sent as it was written."""
    if raw:
        return data
    try:
        text = data.decode()
        msgspec.json.decode(text)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except msgspec.DecodeError as error:
        why = str(error).removeprefix("JSON is malformed: ")
        if why == "Input data was truncated":
            why = f"it ends too early (byte {len(data)})"
    except RecursionError:
        why = "it is nested too deeply"
    else:
        return msgspec.Raw(text)
    raise click.UsageError(f"{where} is not JSON: {why}; text needs double quotes, and --raw sends bytes as they are")


def _header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--header {text!r} is not name=value")
    return name, os.fsencode(value)


def _topic(config: Config) -> str:
    if len(config.topics) != 1 or config.topics[0].startswith("^"):
        raise click.UsageError(f"name one --topic: {', '.join(config.topics)} are configured")
    return config.topics[0]


def _properties(config: Config) -> dict[str, str]:
    """The client's properties; a worker's own timeout of a message gives way to --timeout."""
    return {
        name: value for name, value in config.kafka.items() if name not in ("message.timeout.ms", "delivery.timeout.ms")
    }
