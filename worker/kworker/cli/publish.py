"""`kworker publish`: a task, or one for each line of a file, each acknowledged before it is told of."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import click
import msgspec
from msgspec.structs import replace

from kworker.cli.connection import properties
from kworker.cli.options import config_options, sources
from kworker.cli.payload import parsed, read
from kworker.cli.waiting import Wait
from kworker.config import Config
from kworker.core.publication import message as compose
from kworker.duration import seconds
from kworker.errors import PublishError

if TYPE_CHECKING:
    from kworker.client import Client, Message, Published
    from kworker.codecs.avro_schema import AvroSchema

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
@click.option("--avro-schema", metavar="FILE", help="Write payloads as Avro by this schema, in single-object encoding.")
@click.option("--schema-id", type=click.IntRange(0), help="Confluent framing: the id the registry gave the schema.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a message.")
@click.option("--timeout", default="30s", show_default=True, metavar="DURATION", help="How long a message may take.")
@click.option(
    "--wait",
    is_flag=False,
    flag_value="30s",
    metavar="[DURATION]",
    help="Wait for what the task returns, and print that instead; 30s unless a DURATION follows.",
)
@click.option("--delay", metavar="DURATION", help="Wait so long in the delay log; the same --id again moves it.")
@click.option("--at", metavar="TIME", help="Wait until then (RFC 3339) in the delay log.")
@click.option("--reply-topic", metavar="NAME", help="Topic for the result, with --wait. [default: as configured]")
@config_options("bootstrap", "namespace")
def publish(
    task: str,
    payload: str | None,
    topic: str | None,
    key: str | None,
    id_: str | None,
    headers: tuple[str, ...],
    file: str | None,
    raw: bool,
    avro_schema: str | None,
    schema_id: int | None,
    as_json: bool,
    timeout: str,
    wait: str | None,
    delay: str | None,
    at: str | None,
    reply_topic: str | None,
    **flags: Any,
) -> None:
    """Publish TASK with PAYLOAD and print topic/partition/offset once the broker has acknowledged it.

    PAYLOAD is JSON text, @FILE, or - for standard input; without one the message has none. --file publishes many:
    on a terminal it shows a progress bar instead of each place. Exit code 1 when a message was not acknowledged, or
    with --wait has no result in time or failed for good; 2 when it cannot be sent; the lines before a faulty one are
    published. When no line of a batch is acknowledged, the others are not tried.
    """
    from kworker.client import Client, Message
    from kworker.kafka.settings import faults

    _refuse_contradictions(
        file=file is not None,
        one=payload is not None or id_ is not None,
        schema=avro_schema is not None,
        schema_id=schema_id is not None,
        raw=raw,
        wait=wait is not None,
        later=delay is not None or at is not None,
    )
    flags |= {"topic": (topic,) if topic else (), "reply_topic": (reply_topic,) if reply_topic else ()}
    config = Config.load(*sources(flags), vet=faults, group_needed=False)
    message = Message(
        task,
        None if payload is None else parsed(read(payload), raw, "PAYLOAD"),
        _topic(config),
        None if key is None else os.fsencode(key),
        id_,
        dict(map(_header, headers)),
        None if avro_schema is None else _schema(avro_schema),
        schema_id,
        delay,
        at,
    )
    sample = message if file is None else replace(message, payload=b"" if raw else msgspec.Raw(b"0"))
    limit = _checked(sample, timeout)
    waiting = None if wait is None else Wait(wait, config)
    message = _written(message, "") if file is None else message
    with Client(config.bootstrap, kafka=properties(config), timeout=limit, namespace=config.namespace) as client:
        if waiting is not None:
            waiting.call(client, message, as_json)
        elif file is None:
            _publish_one(client, message, as_json)
        else:
            lines = _Lines(client, message, file, raw, as_json)
            lines.publish()
            sys.exit(1 if lines.failed else 0)


def _publish_one(client: Client, message: Message, as_json: bool) -> None:
    done = client.publish(
        message.task,
        message.payload,
        topic=message.topic,
        key=message.key,
        id=message.id,
        headers=message.headers,
        delay=message.delay,
        at=message.at,
    )
    _print([(0, done)], message.task, as_json)


def _refuse_contradictions(
    *, file: bool, one: bool, schema: bool, schema_id: bool, raw: bool, wait: bool, later: bool
) -> None:
    """Raises UsageError for options that cannot be meant together."""
    if file and one:
        raise click.UsageError("--file gives the payload of every message, and each gets an id of its own")
    if schema_id and not schema:
        raise click.UsageError("--schema-id is the id of a schema: give it as --avro-schema FILE")
    if schema and raw:
        raise click.UsageError("--raw sends bytes as they are, --avro-schema writes them: leave one out")
    if wait and file:
        raise click.UsageError("--wait is for one message: leave out --file")
    if wait and later:
        raise click.UsageError("--wait waits for a result, --delay and --at put it off: leave one out")


def _checked(sample: Message, timeout: str) -> float:
    """Seconds of `timeout`. Raises UsageError for what is wrong with it or with the message."""
    from kworker.client.delays import due

    try:
        due(sample.delay, sample.at, time.time())
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


class _Lines:
    """A message for each line of a file; counts what was acknowledged and what was not."""

    def __init__(self, client: Client, template: Message, file: str, raw: bool, as_json: bool) -> None:
        self.done = 0
        self.failed = 0
        self._client = client
        self._template = template
        self._file = file
        self._raw = raw
        self._as_json = as_json

    def publish(self) -> None:
        """Publish them all. Raises UsageError at the first that is no payload; ends when none is acknowledged."""
        size = Path(self._file).stat().st_size if Path(self._file).is_file() else 0
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(click.open_file(self._file, "rb"))
            except OSError as error:
                raise click.UsageError(f"cannot read {self._file}: {error.strerror}") from error
            bar = None
            if size and sys.stderr.isatty():
                bar = stack.enter_context(click.progressbar(length=size, label=self._file, file=sys.stderr))
            for chunk in _chunks(stream, self._file):
                if not self._publish(chunk, show=bar is None or not sys.stdout.isatty()):
                    click.echo(f"kworker: {self._file}: the lines after {chunk[-1][0]} were not tried", err=True)
                    break
                if bar is not None:
                    bar.update(sum(len(line) + 1 for _, line in chunk))
        if bar is not None:
            click.echo(f"{self.done} messages published", err=True)

    def _publish(self, chunk: list[tuple[int, bytes]], *, show: bool) -> bool:
        """Publish some lines; False when none of them was acknowledged."""
        from kworker.client import Published

        batch, fault = self._messages(chunk)
        results = list(zip([number for number, _ in batch], self._results([m for _, m in batch]), strict=True))
        published = [(number, result) for number, result in results if isinstance(result, Published)]
        failed = [(number, str(result)) for number, result in results if not isinstance(result, Published)]
        self.done += len(published)
        self.failed += len(failed)
        if show:
            _print(published, self._template.task, self._as_json)
        for why, group in groupby(failed, key=itemgetter(1)):
            numbers = [number for number, _ in group]
            lines = f"line {numbers[0]}" if len(numbers) == 1 else f"lines {numbers[0]} to {numbers[-1]}"
            click.echo(f"kworker: {self._file}, {lines}: {why}", err=True)
        if fault is not None:
            raise fault
        return bool(published or not failed)

    def _messages(self, chunk: list[tuple[int, bytes]]) -> tuple[list[tuple[int, Message]], click.UsageError | None]:
        """A message a line, up to the first line that is no payload; and what is wrong with that one."""
        batch: list[tuple[int, Message]] = []
        for number, line in chunk:
            try:
                if line.strip():
                    payload = parsed(line.removesuffix(b"\r"), self._raw, f"{self._file}, line {number}")
                    message = replace(self._template, payload=payload)
                    batch.append((number, _written(message, f"{self._file}, line {number}: ")))
            except click.UsageError as error:
                return batch, error
        return batch, None

    def _results(self, messages: list[Message]) -> Sequence[Published | PublishError]:
        try:
            return self._client.publish_many(messages)
        except PublishError as error:
            return error.results


def _print(published: list[tuple[int, Published]], task: str, as_json: bool) -> None:
    """Tell where messages are, with their line of a file; line 0 stands for no file."""
    if as_json:
        lines = [
            _json({"task": task, **msgspec.structs.asdict(done)} | ({"line": number} if number else {}))
            for number, done in published
        ]
    else:
        lines = [str(done) for _, done in published]
    if lines:
        click.echo("\n".join(lines))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _chunks(stream: IO[bytes], file: str) -> Iterator[list[tuple[int, bytes]]]:
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


def _schema(file: str) -> AvroSchema:
    """The Avro schema in a file."""
    from kworker.codecs.avro_schema import AvroSchema

    try:
        return AvroSchema(json.loads(Path(file).read_bytes()))
    except OSError as error:
        raise click.UsageError(f"--avro-schema: cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--avro-schema {file}: it holds no Avro schema that can be used: {error}") from error


def _written(message: Message, where: str) -> Message:
    """The message with its payload written by the schema, if there is one."""
    from kworker.client import as_avro

    try:
        return message if message.schema is None else as_avro(message)
    except ValueError as error:
        raise click.UsageError(f"{where}{error}") from error


def _header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--header {text!r} is not name=value")
    return name, os.fsencode(value)


def _topic(config: Config) -> str:
    if len(config.topics) != 1 or config.topics[0].startswith("^"):
        raise click.UsageError(f"name one topic with --topic; configured: {', '.join(config.topics)}")
    return config.topics[0]
