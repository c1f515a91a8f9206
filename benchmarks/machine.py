"""The machine a run was made on, as a reader must know it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import confluent_kafka
import psutil

from kit.distribution import VERSION


def described(*, own_broker: bool) -> list[str]:
    """A line for each thing that matters. Load is that before the run: other work on the machine makes it worthless."""
    kafka = f"Kafka {VERSION}, one broker on the same machine, in memory of 768 MiB" if own_broker else "a given Kafka"
    return [
        f"{os.cpu_count()} x {_processor()}, {psutil.virtual_memory().total / (1 << 30):.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        kafka,
        f"{platform.python_implementation()} {platform.python_version()}, librdkafka {confluent_kafka.libversion()[0]}",
        f"load before the run: {', '.join(f'{load:.2f}' for load in os.getloadavg())}",
    ]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()
