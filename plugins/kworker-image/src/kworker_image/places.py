"""Where a message may read and write: only below configured directories, wherever symbolic links lead.

A path of a message is resolved first and compared then, so that neither `..` nor a link gets out. What is opened is
what was resolved, and a link that took its place meanwhile is not followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from kworker import Reject, Retry

_NEVER = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
"""Errors that come from the path itself: no later attempt does better."""


def directories(setting: str, names: Sequence[str], faults: list[str]) -> list[Path]:
    """The configured directories, resolved; what is none becomes a fault."""
    found = []
    for name in names:
        try:
            path = Path(name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            faults.append(f"plugins.image: {setting}: {name!r}: {error}")
            continue
        if path.is_dir():
            found.append(path)
        else:
            faults.append(f"plugins.image: {setting}: {name!r} is not a directory")
    return found


def source_path(text: str, roots: Sequence[Path]) -> Path:
    """The file that a message names, as an absolute path or from the first root that has it.

    Raises Reject when it lies outside, Retry when it does not exist.
    """
    for root in roots:
        path = _below("source", text, [root] if not text.startswith("/") else roots)
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _verdict("source", error) from error
        return path
    raise Retry(f"source: {text[:200]!r} does not exist below [plugins.image] roots")


def target_path(text: str, targets: Sequence[Path]) -> Path:
    """The file to write, as an absolute path or from the first target directory. Raises Reject when it lies outside."""
    name = Path(text).name
    if name in ("", "..") or "\0" in name:
        raise Reject(f"target: {text[:200]!r} does not name a file")
    # The name itself is not resolved: the rename replaces a link of this name, it does not follow it.
    parent = _below("target", str(Path(text).parent), targets if text.startswith("/") else targets[:1])
    return parent / name


def _below(argument: str, text: str, directories: Sequence[Path]) -> Path:
    try:
        path = (directories[0] / text).resolve()  # an absolute path replaces the directory
    except (OSError, RuntimeError, ValueError) as error:
        raise Reject(f"{argument}: {text[:200]!r}: {error}") from None
    if not any(path.is_relative_to(directory) for directory in directories):
        raise Reject(f"{argument}: {text[:200]!r} lies outside the directories of [plugins.image]")
    return path


def read(path: Path, most: int) -> bytes:
    """A file's bytes. Raises Reject for more than `most` bytes and for what is no regular file, Retry for the disk."""
    try:
        # Not blocking: a pipe of that name would hold the slot until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Reject("source: it is not a regular file")
            data = file.read(most + 1)
    except OSError as error:
        raise _verdict("source", error) from error
    if len(data) > most:
        raise Reject(f"source: it has more than {most} bytes, see max_bytes")
    return data


def write(path: Path, data: bytes) -> None:
    """Write a file at once: whoever opens it sees the old one or the new one, also after a crash.

    Missing directories are made. Raises Reject for a path that cannot be, Retry for the disk, such as a full one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".kworker-{secrets.token_hex(8)}.part")
        try:
            # Not tempfile: its files are for their owner only, this one has the rights of any new file.
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _verdict("target", error) from error


def _verdict(argument: str, error: OSError) -> Reject | Retry:
    kind = Reject if error.errno in _NEVER else Retry
    return kind(f"{argument}: {error.strerror or error}")
