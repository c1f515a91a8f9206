"""What is measured of one process of a peer: how fast it drains a topic, its latency, its idling, a kill."""

from __future__ import annotations

import time
from statistics import quantiles

from confluent_kafka import Producer

from benchmarks import topics
from benchmarks.plan import MIX, POWERS, executor_of
from benchmarks.trial import MIB, WARM, Trial

RATE = 200  # tasks a second, paced
SETTLED = 3.0  # seconds after its first task before an idle peer is measured: what its start left is over then
IDLE, IDLE_FEW = 20.0, 0.5  # seconds


def drain(trial: Trial) -> None:
    """How fast it empties a full topic, and what that takes."""
    first = max(1, int(trial.tasks * WARM))
    with trial.start() as run:
        begin, end = run.until(first), run.until(trial.tasks)
        run.look()
        trial.committed()
        run.stop()
    took, count = end.at - begin.at, trial.tasks - begin.done
    trial.figures |= {"pss": run.peak.proportional / MIB, "rss": run.peak.resident / MIB}
    if count == 0:  # done between two looks: with so few there is no rate, and the table says "-"
        return
    trial.figures |= {"rate": count / took, "cpu_us": (end.cpu - begin.cpu) / count * 1e6}
    if (ideal := trial.workload.ideal(trial.tasks, begin.done)) is not None:
        trial.figures["of_ideal"] = ideal / took


def paced(trial: Trial) -> None:
    """Milliseconds from the call of produce() to the end of the task, at a steady rate; the first ones do not count."""
    producer = Producer({"bootstrap.servers": trial.bootstrap, "acks": "all", "linger.ms": 0})
    published: list[int] = []

    def publish() -> None:
        published.append(time.monotonic_ns())
        topics.send(producer, trial.topic, trial.workload, len(published) - 1)

    with trial.start() as run:
        publish()
        run.until(1)
        begin = time.monotonic()
        cpu = run.tree.cpu()
        while len(published) < trial.tasks:
            due = begin + len(published) / RATE
            producer.poll(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                publish()
        assert producer.flush(topics.TIMEOUT) == 0, "the last tasks were not acknowledged"
        end = run.until(trial.tasks)
        run.look()
        trial.committed()
        run.stop()
    latencies = [(trial.effect.moment(n) - published[n]) / 1e6 for n in range(int(trial.tasks * WARM), trial.tasks)]
    cuts = quantiles(latencies, n=100)
    trial.figures |= {
        "p50": cuts[49],
        "p99": cuts[98],
        "cpu_us": (end.cpu - cpu) / trial.tasks * 1e6,
        "pss": run.peak.proportional / MIB,
        "rss": run.peak.resident / MIB,
    }


def idle(trial: Trial) -> None:
    """What it takes to start and do its first task, and then to do nothing."""
    window = IDLE_FEW if trial.few else IDLE
    with trial.start() as run:
        run.until(1)
        trial.figures["first_task"] = trial.effect.moment(0) / 1e9 - run.started
        trial.committed()
        time.sleep(0 if trial.few else SETTLED)
        cpu, begin = run.tree.cpu(), time.monotonic()
        time.sleep(window)
        trial.figures["idle_cpu"] = (run.tree.cpu() - cpu) / (time.monotonic() - begin) * 100
        held = run.look()  # once, after the window: looking costs the peer something
        trial.figures["main_rss"] = run.tree.resident() / MIB
        run.stop()
    trial.figures |= {"pss": held.proportional / MIB, "rss": held.resident / MIB}


def kill(trial: Trial) -> None:
    """kill -9 to all its processes when half is done; what a second one runs again, as % of what was done then."""
    with trial.start() as run:
        run.until(trial.tasks // 2)
        run.kill()
    done = trial.effect.done()
    with trial.start() as run:
        run.until(trial.tasks)
        trial.committed()
        run.stop()
    trial.figures |= {"done_at_kill": done, "again": (trial.effect.runs() - trial.tasks) / done * 100}


def mixed(trial: Trial) -> None:
    """Drain, and how near each executor of one worker comes to what its slots could do, the others at work beside it.

    From the end of the first tenth of its tasks to nine tenths, as its tasks noted: where all of them are busy.
    """
    drain(trial)
    ends: dict[str, list[int]] = {}
    for n in range(trial.tasks):
        ends.setdefault(executor_of(n), []).append(trial.effect.moment(n))
    for executor, moments in ends.items():
        moments.sort()
        first, last = int(len(moments) * WARM), int(len(moments) * (1 - WARM))
        servers = trial.workload.processes if executor == "process" else trial.workload.slots
        took = (moments[last] - moments[first]) / 1e9
        cost = trial.workload.cost(MIX.index(executor)) / 1000
        if took:
            trial.figures[f"of_ideal_{executor}"] = (last - first) * cost / servers / took


def powers(trial: Trial) -> None:
    """What a task costs between 10^4 and 10^5 of them, 10^5 and 10^6, and so on, in one run of one worker."""
    with trial.start() as run:
        before = run.until(min(10 ** (POWERS[0] - 1), trial.tasks // 10))  # fewer take no time that could be measured
        for power in (one for one in POWERS if 10**one <= trial.tasks):
            reached = run.until(10**power)
            trial.figures[f"cpu_us_1e{power}"] = (reached.cpu - before.cpu) / (reached.done - before.done) * 1e6
            before = reached
        run.until(trial.tasks)
        run.look()
        trial.committed()
        run.stop()
    trial.figures |= {"pss": run.peak.proportional / MIB, "rss": run.peak.resident / MIB}
