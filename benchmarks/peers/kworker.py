"""kworker as it is installed: every option at its default but slots, processes and order, which the workload sets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from benchmarks.peer import Peer, of_distributions
from benchmarks.place import Place
from benchmarks.plan import WORKLOADS

EXECUTORS = ("thread", "coroutine", "process")
_DISTRIBUTIONS = ("kworker-kafka", "confluent-kafka", "msgspec")


_GROWTH = frozenset(workload.name for workload in WORKLOADS if workload.name.startswith("W8-"))
_MANY = frozenset(name for name in _GROWTH if name.startswith("W8-slots-"))


def _command(executor: str, order: str, changed: tuple[str, ...], file: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        # Records name no task, so that the same topic serves every executor and every peer; those of W6 do.
        settings = f'[topics."{place.topic}"]\ntask = "bench.{place.body}.{executor}"\n' if executor else ""
        (place.folder / "kworker.toml").write_text(settings + file)
        options = {
            "--group": place.group,
            "--topic": place.topic,
            "--bootstrap": place.bootstrap,
            "--admin-port": "0",
            "--concurrency": f"{place.slots}",
            "--processes": f"{place.processes}",
            "--order": order,
            "--namespace": place.group,  # a delay log of its own
        }
        plugins = [word for kind in ([executor] if executor else EXECUTORS) for word in ("--plugin", f"bench-{kind}")]
        words = [word for option in options.items() for word in option]
        return ["env", "OTEL_TRACES_EXPORTER=none", sys.executable, "-m", "kworker", *words, *plugins, *changed]

    return command


def _peer(
    name: str, executor: str, workloads: Iterable[str], order: str = "unordered", changed: str = "", file: str = ""
) -> Peer:
    options = " ".join(filter(None, [f"--order {order}", changed, file.replace("\n", " ")]))
    return Peer(
        name=f"kworker {name}",
        workloads=frozenset(workloads),
        command=_command(executor, order, tuple(changed.split()), file),
        versions=of_distributions(*_DISTRIBUTIONS),
        settings=f"{executor or 'every'} executor, {options}, --concurrency: slots; else as by default, logs at info",
    )


_THREADS = {
    *("W1", "W2-64", "W2-256", "W4", "W5", "W7", "W9-1", "W9-2", "W9-4", "W10", "W11", "W13", "W1-kill", "W2-kill"),
    *("COST", "COST-log", "MEM-bomb", "MEM-slope"),
    *(_GROWTH - _MANY),
}

PEERS = (
    _peer("threads", "thread", _THREADS),
    _peer("threads, key order", "thread", {"W1", "W4", "COST"}, order="key"),
    _peer("threads, partition order", "thread", {"COST"}, order="partition"),
    _peer("coroutines", "coroutine", {"W1", "W2-64", "W2-256", "W4", *_MANY}),
    _peer("processes", "process", {"W1", "W3"}),
    _peer("all executors", "", {"W6"}),
    _peer("threads, tracing", "thread", {"COST"}, changed="--tracing"),
    _peer("threads, logs at debug", "thread", {"COST", "COST-log"}, changed="--log-level debug"),
    _peer("threads, logs at warning", "thread", {"COST", "COST-log"}, changed="--log-level warning"),
    _peer("threads, logs in JSON", "thread", {"COST-log"}, changed="--log-format json"),
    _peer("threads, no timeout", "thread", {"COST"}, file='[tasks."bench.sleep.thread"]\ntimeout = "0s"\n'),
)
