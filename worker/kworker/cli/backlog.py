"""`kworker backlog`: the backlog of groups as metrics and JSON, for dashboards, alerts and autoscalers."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any

import click

from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.config.options import duration, legal, parted, subscription
from kworker.errors import ConfigError


@click.command(epilog=SOURCES)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME[=TOPIC,...]",
    help="Group to watch, with topics, or ^regular expressions, that it has not committed yet; repeatable.",
)
@click.option("--interval", default="15s", show_default=True, metavar="DURATION", help="Between two readings.")
@config_options("bootstrap", "namespace", "admin_host", "admin_port", "log_format", "log_level")
def backlog(groups: tuple[str, ...], interval: str, **flags: Any) -> None:
    """Serve what groups have not finished, with or without workers: /metrics, /status (JSON), /readyz.

    One for a cluster. It joins no group and changes nothing; an autoscaler can start the first worker by it. Delayed
    tasks that are due count, and those that are not are told beside them.
    """
    from kworker import logs
    from kworker.exporter import Exporter
    from kworker.health import AdminServer
    from kworker.kafka.settings import faults

    wanted, seconds = _parse(groups, interval)
    config = Config.load(*sources(flags), vet=faults, group_needed=False)
    exporter = Exporter(config, wanted, seconds)
    admin = AdminServer(
        config.admin_host,
        config.admin_port,
        explicit=config.admin_port_explicit,
        metrics=exporter.page,
        live=list,
        ready=exporter.ready,
        status=exporter.status,
    )
    stop_logs = logs.start(config.log_format, config.log_level)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    admin.start()
    logging.getLogger("kworker").info(
        "backlog exporter", extra={"metrics": f"http://{config.admin_host}:{admin.port}/metrics"}
    )
    reader = threading.Thread(target=exporter.run, name="kworker-backlog", daemon=True)
    reader.start()
    while not ended.wait(1.0) and reader.is_alive():
        continue
    failed = not ended.is_set()
    exporter.stop()
    admin.stop()
    stop_logs()
    sys.exit(1 if failed else 0)


def _parse(groups: tuple[str, ...], interval: str) -> tuple[dict[str, set[str]], float]:
    faults: list[str] = []
    wanted: dict[str, set[str]] = {}
    for given in groups:
        name, _, topics = given.partition("=")
        try:
            names = {subscription(topic, True) for topic in parted(topics)}
            wanted.setdefault(legal(name, True), set()).update(names)
        except ValueError as error:
            faults.append(f"--group: {error}: write NAME or NAME=TOPIC,TOPIC")
    if not groups:
        faults.append("--group: not given: name each group to watch")
    seconds = 0.0
    try:
        seconds = float(str(duration("1s", "1h")(interval, True)))
    except ValueError as error:
        faults.append(f"--interval: {error}")
    if faults:
        raise ConfigError(faults)
    return wanted, seconds
