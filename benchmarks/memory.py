"""What is measured of memory alone: a bomb of compressed batches, and whether it grows over minutes."""

from __future__ import annotations

import re
import time
from itertools import count
from pathlib import Path
from statistics import linear_regression

from confluent_kafka import Producer

from benchmarks import topics
from benchmarks.run import Run
from benchmarks.trial import MIB, Trial

BATCH = 45  # records of a batch; librdkafka inflates zstd by doubling, up to receive.message.max.bytes of 100 MB
RATE = 2_000  # tasks a second
BURST = 10  # of them at once
SETTLED = 60.0  # seconds that do not count: caches fill
EVERY = 5.0  # seconds between samples
DAY = 24.0  # hours
_STATUS = re.compile(r"^(\w+):\s+(\d+) kB$", re.M)


def bomb(trial: Trial) -> None:
    """A topic of a few KB which inflates to a MiB for each task; how much memory that takes, and that it is survived.

    The peak is the kernel's own of the main process, which no look from outside can miss.
    """
    _plant(trial)
    with trial.start() as run:
        run.until(trial.tasks)
        trial.committed()
        trial.figures |= {
            "inflated": trial.tasks * trial.workload.size / MIB,
            "peak": status(run, "VmHWM"),
            "rss": status(run, "VmRSS"),
        }
        run.stop()


def slope(trial: Trial) -> None:
    """Its own memory at a steady rate, by the hour: anonymous pages, as those of the mapped effect are nobody's."""
    producer = Producer({"bootstrap.servers": trial.bootstrap, "acks": "all", "linger.ms": 5})
    hours: list[float] = []
    held: list[float] = []
    with trial.start() as run:
        begin = time.monotonic()
        due = begin + SETTLED
        for first in range(0, trial.tasks, BURST):
            for n in range(first, min(first + BURST, trial.tasks)):
                topics.send(producer, trial.topic, trial.workload, n)
            producer.poll(max(0.0, begin + first / RATE - time.monotonic()))
            while (left := begin + first / RATE - time.monotonic()) > 0:
                producer.poll(left)
            if (now := time.monotonic()) >= due:
                due = now + EVERY
                hours.append((now - begin) / 3600)
                held.append(status(run, "RssAnon"))
        assert producer.flush(topics.TIMEOUT) == 0, "the last tasks were not acknowledged"
        run.until(trial.tasks)
        trial.figures |= {"start": held[0] if held else status(run, "RssAnon"), "rss": status(run, "VmRSS")}
        trial.committed()
        run.stop()
    if len(held) >= 2:
        grows = linear_regression(hours, held).slope
        trial.figures |= {"slope": grows, "day": held[-1] + grows * DAY}


def status(run: Run, field: str) -> float:
    """MiB of the main process, by a field of /proc/<pid>/status. Linux only, as is PSS."""
    found = dict(_STATUS.findall(Path(f"/proc/{run.process.pid}/status").read_text()))
    return int(found[field]) / 1024


def _plant(trial: Trial) -> None:
    producer = Producer(
        {
            "bootstrap.servers": trial.bootstrap,
            "acks": "all",
            "linger.ms": 10_000,  # a batch is sent when it is full, or by the flush
            "compression.type": "zstd",
            "message.max.bytes": 900_000_000,
            "batch.size": 900_000_000,
            "batch.num.messages": BATCH,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )
    for n in count():
        if n % BATCH == 0 or n == trial.tasks:
            assert producer.flush(topics.TIMEOUT) == 0, "a batch was not acknowledged"
        if n == trial.tasks:
            return
        topics.send(producer, trial.topic, trial.workload, n)
