"""A payload as the command line takes it: JSON text, @FILE, or - for standard input."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import msgspec


def read(payload: str, where: str = "PAYLOAD") -> bytes:
    """The bytes that are meant. Raises UsageError."""
    if payload == "-":
        return sys.stdin.buffer.read()
    if not payload.startswith("@"):
        return os.fsencode(payload)
    try:
        return Path(payload[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{where}: cannot read {payload[1:]}: {error.strerror}") from error


def parsed(data: bytes, raw: bool, where: str) -> bytes | msgspec.Raw:
    """The bytes, or JSON text that is sent as it was written. Raises UsageError."""
    return data if raw else as_json(data, where, ", and --raw sends bytes as they are")


def as_json(data: bytes, where: str, hint: str = "") -> msgspec.Raw:
    """JSON text as it was written. Raises UsageError."""
    try:
        text = data.decode()
        msgspec.json.decode(text)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except msgspec.DecodeError as error:
        why = _place(text) or str(error)
    except RecursionError:
        why = "it is nested too deeply"
    else:
        return msgspec.Raw(text)
    raise click.UsageError(f"{where} is not JSON: {why}; text needs double quotes{hint}")


def _place(text: str) -> str:
    """What is wrong, with line and column: msgspec, which decides, gives only a byte near it."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""
