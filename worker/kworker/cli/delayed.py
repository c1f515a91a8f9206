"""`kworker delayed`: what waits in the delay log, listed, shown and cancelled."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kworker.cli.connection import client as connected
from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.core.delayed import retried
from kworker.duration import seconds
from kworker.schedules.moment import rfc3339
from kworker.terminal import columns, printable

if TYPE_CHECKING:
    from kworker.client import Client
    from kworker.core.delayed import Delayed

_connection = config_options("bootstrap", "namespace")
_WIDEST = 60


@click.group()
def delayed() -> None:
    """Delayed tasks: list, show and cancel them."""


@delayed.command(epilog=SOURCES)
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a task.")
@_connection
def ls(limit: int, as_json: bool, **flags: Any) -> None:
    """List the tasks that are due first. It reads all of the delay log, and changes nothing."""
    with _client(flags) as client, client.delays.browse() as browser:
        count, found = browser.count, browser.first(limit)
    now = time.time()
    if as_json:
        for one in found:
            click.echo(_json(_as_json(one)))
        return
    rows = [("DUE", "IN", "ID", "TASK", "TO"), *(_row(one, now) for one in found)]
    for line in columns(rows) if found else []:
        click.echo(line)
    click.echo(f"{count} waiting" + (f", {len(found)} shown" if len(found) < count else ""))


@delayed.command(epilog=SOURCES)
@click.argument("id_", metavar="ID")
@click.option("--raw", is_flag=True, help="Print the payload's bytes, and nothing else.")
@_connection
def show(id_: str, raw: bool, **flags: Any) -> None:
    """Show one task that waits, as JSON. Exit code 1 when there is none of this id."""
    with _client(flags) as client:
        found = client.find_delayed(id_)
    if found is None:
        click.echo(f"kworker: no delayed task {id_!r} waits", err=True)
        sys.exit(1)
    if raw:
        sys.stdout.buffer.write(found.value or b"")
        return
    click.echo(msgspec.json.format(_json(_as_json(found, whole=True)), indent=2))


@delayed.command(epilog=SOURCES)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--timeout", default="10s", show_default=True, metavar="DURATION", help="How long to wait for the answer."
)
@_connection
def cancel(ids: tuple[str, ...], timeout: str, **flags: Any) -> None:
    """Cancel tasks that wait, and print what became of each: cancelled, too-late or unknown.

    A worker decides: a task is never both cancelled and run. A retry that is cancelled is gone: it is no dead letter.
    Exit code 1 unless all were cancelled.
    """
    from kworker.client.delays import verdict
    from kworker.errors import DelayError

    try:
        within = seconds(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    failed = False
    with _client(flags) as client:
        answers = client.delays.cancel(ids, within)
        for id_, answer in zip(ids, answers, strict=True):
            failed |= answer != "cancelled"
            try:
                click.echo(f"{id_}: {verdict(id_, answer, within, client.delays.log)}")
            except DelayError as error:
                click.echo(f"kworker: {error}", err=True)
    sys.exit(1 if failed else 0)


def _client(flags: Mapping[str, Any]) -> Client:
    from kworker.kafka.settings import faults

    return connected(Config.load(*sources(dict(flags)), vet=faults, group_needed=False))


def _row(one: Delayed, now: float) -> tuple[str, ...]:
    left = one.due / 1000 - now
    return (
        _time(one.due),
        f"{left:.0f}s" if left < 3600 else f"{left / 3600:.1f}h" if left < 172_800 else f"{left / 86_400:.1f}d",
        printable(_text(one.id))[:_WIDEST],
        _header(one, "ce_type") or _header(one, "task"),
        one.target or "(cannot be read: it is set aside)",
    )


def _as_json(one: Delayed, *, whole: bool = False) -> dict[str, object]:
    told: dict[str, object] = {
        "id": _text(one.id),
        "due": _time(one.due),
        "due_ms": one.due,
        "task": _header(one, "ce_type") or _header(one, "task"),
        "topic": one.target,
        "key": None if one.key is None else _text(one.key),
    }
    if not whole:
        return told
    info, headers = retried(one.headers) if ".retry." in one.target else (None, one.headers)
    if info is not None:
        told |= {"attempt": info.attempt, "first_seen": _time(info.first_seen), "origin": info.origin}
    told["headers"] = [[name, None if value is None else _text(value)] for name, value in headers]
    try:
        told["payload"] = None if one.value is None else one.value.decode()
    except UnicodeDecodeError:
        told["payload_base64"] = base64.b64encode(one.value or b"").decode()
    return told


def _header(one: Delayed, name: str) -> str:
    return printable(_text(dict(one.headers).get(name) or b""))[:_WIDEST]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _time(due: int) -> str:
    try:
        return rfc3339(due / 1000, precision="milliseconds")
    except (ValueError, OverflowError, OSError):  # a record that cannot be read
        return "-"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
