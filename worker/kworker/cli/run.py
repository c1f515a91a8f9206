"""`kworker run`: the worker, in the foreground, until a signal ends it; or several, under a supervisor."""

from __future__ import annotations

from typing import Any

import click

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.errors import ConfigError


@click.command(epilog=SOURCES)
@config_options()
def run(**flags: Any) -> None:
    """Run a worker: read topics as a member of a consumer group, hand each message to its plugin.

    An offset is committed only when its task is done. SIGTERM and SIGINT stop it: running tasks finish first.
    """
    from kworker.process.init import stand_in

    stand_in()  # before there are threads
    from kworker.process.space import refusal

    if why := refusal(0):  # clients are made to look at their properties; how many tasks there are is asked later
        raise ConfigError([why])
    from kworker.kafka.settings import faults
    from kworker.launch import launch

    config = Config.load(*sources(flags), vet=faults)
    if config.workers > 1:
        from kworker.supervisor import Supervisor

        launch(config, lambda: Supervisor(config).run())
    from kworker.worker import run_worker  # late: a fault is told before the worker is imported

    launch(config, lambda: run_worker(config))
