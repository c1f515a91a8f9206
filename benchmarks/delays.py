"""W13: how fast tasks that are due at one moment are handed over from the delay log, and run."""

from __future__ import annotations

import time
from statistics import quantiles

from confluent_kafka import Producer

from benchmarks import topics
from benchmarks.run import Failed
from benchmarks.trial import MIB, Trial
from benchmarks.workload import KEYS
from kit.records import create_topic
from kworker.core.delayed import delay, log_of
from kworker.kafka.delaylog import WANTED
from kworker.task import Publication

PARTITIONS = 4  # of the delay log, as by default
LEAD = 4.0  # seconds before they are due when nothing was published yet: a worker starts and takes the log over
PACE = 10_000  # tasks published a second, at least


def delays(trial: Trial) -> None:
    """All are in the log before they are due. The rate is from that moment to the end of the last task."""
    log = log_of(trial.place.group)  # a namespace of its own for each run
    create_topic(trial.bootstrap, log, PARTITIONS, WANTED)
    try:
        with trial.start() as run:
            due = time.time() + LEAD + trial.tasks / PACE
            due_here = time.monotonic() + due - time.time()  # by the clock of tasks
            _publish(trial, log, due)
            if time.time() >= due:
                raise Failed("they were due before all were published: this machine is too slow for the plan")
            run.until(1)
            cpu = run.tree.cpu()
            end = run.until(trial.tasks)
            run.look()
            trial.committed()
            run.stop()
    finally:
        topics.delete(trial.bootstrap, log)
    late = sorted(trial.effect.moment(n) / 1e9 - due_here for n in range(trial.tasks))
    if late[0] < 0:
        raise Failed(f"a task ran {-late[0]:.3f} s before it was due")
    cuts = quantiles(late, n=100)
    trial.figures |= {
        "rate": trial.tasks / late[-1],
        "late_p50": cuts[49],
        "late_p99": cuts[98],
        "cpu_us": (end.cpu - cpu) / trial.tasks * 1e6,
        "pss": run.peak.proportional / MIB,
        "rss": run.peak.resident / MIB,
    }


def _publish(trial: Trial, log: str, due: float) -> None:
    producer = Producer(topics.PRODUCER | {"bootstrap.servers": trial.bootstrap, "partitioner": "murmur2_random"})
    for n in range(trial.tasks):
        waits = Publication(trial.topic, b"%d" % (n % KEYS), trial.workload.payload(n), [])
        record = delay(waits, f"{trial.place.group}-{n}", due, log)
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(topics.TIMEOUT) == 0, f"{log}: not everything was acknowledged"
