"""`kworker run`: the worker, in the foreground, until a signal ends it."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any

import click

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.version import __version__


@click.command(epilog=SOURCES)
@config_options()
def run(**flags: Any) -> None:
    """Run a worker: read topics as a member of a consumer group, hand each message to its plugin.

    An offset is committed only when its task is done. SIGTERM and SIGINT stop it: running tasks finish first.
    """
    from kworker import logs
    from kworker.kafka.settings import faults

    config = Config.load(*sources(flags), vet=faults)
    from kworker.worker import run_worker  # late: a fault is told before the worker is imported

    stop_logs = logs.start(config.log_format, config.log_level)
    try:
        log = logging.getLogger("kworker")
        log.info("kworker %s", __version__, extra={"file": str(config.file)} if config.file else {})
        for note in config.notes:
            log.warning(note)
        log.debug("configuration", extra=config.redacted())
        code = run_worker(config)
    except BaseException:
        stop_logs()
        raise
    stop_logs()
    # Not sys.exit: it would wait for what a hung task or a client that cannot reach its broker still holds.
    with suppress(AttributeError, OSError, ValueError):  # nobody may read what a plugin printed
        sys.stdout.flush()
    os._exit(code)
