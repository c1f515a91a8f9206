"""The start and the end of a process that runs a worker: its logs, its first lines, its exit code."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from kworker import logs
from kworker.config import Config
from kworker.errors import ConfigError, KworkerError
from kworker.process.space import refusal
from kworker.version import __version__

log = logging.getLogger("kworker")

_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # a parameter of glibc's mallopt; bytes


def launch(config: Config, run: Callable[[], int], fields: Mapping[str, object] | None = None) -> NoReturn:
    """Log as configured, `run`, and end this process with its code. fields: what every line of the log has.

    What `run` raises is raised, after the last line of the log was written.
    """
    _give_back_memory()
    stop_logs = logs.start(config.log_format, config.log_level, fields=fields)
    try:
        log.info("kworker %s", __version__, extra={"file": str(config.file)} if config.file else {})
        for note in config.notes:
            log.warning(note)
        log.debug("configuration", extra=config.redacted())
        if why := refusal(config.concurrency):
            raise ConfigError([why])
        code = run()
    except Exception as error:
        if isinstance(error, KworkerError):
            raise
        log.critical("unexpected error: this is a bug of kworker", exc_info=True)
        code = KworkerError.exit_code
    finally:
        stop_logs()
    # Not sys.exit: it would wait for what a hung task or a client that cannot reach its broker still holds.
    with suppress(AttributeError, OSError, ValueError):  # nobody may read what a plugin printed
        sys.stdout.flush()
    os._exit(code)


def _give_back_memory() -> None:
    """Have large buffers go back to the system when they are freed.

    Once glibc has seen a few of them it takes the next from its arenas, which keep what was freed: after one batch of
    150 MiB a worker stayed that much larger for good.
    """
    with suppress(AttributeError, OSError):  # another C library decides for itself
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
