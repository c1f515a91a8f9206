"""kworker as it is installed: every option at its default but slots, processes and order, which the workload sets."""

from __future__ import annotations

import sys

from benchmarks.peer import Peer, of_distributions
from benchmarks.place import Place

_DISTRIBUTIONS = ("kworker-kafka", "confluent-kafka", "msgspec")


def _peer(name: str, executor: str, workloads: set[str], order: str = "unordered") -> Peer:
    def command(place: Place) -> list[str]:
        # The records name no task, so that the same topic serves every executor and every peer.
        settings = f'[topics."{place.topic}"]\ntask = "bench.{place.body}.{executor}"\n'
        (place.folder / "kworker.toml").write_text(settings)
        options = {
            "--group": place.group,
            "--topic": place.topic,
            "--bootstrap": place.bootstrap,
            "--plugin": f"bench-{executor}",
            "--admin-port": "0",
            "--concurrency": f"{place.slots}",
            "--processes": f"{place.processes}",
            "--order": order,
        }
        return [sys.executable, "-m", "kworker", *(word for option in options.items() for word in option)]

    return Peer(
        name=f"kworker {name}",
        workloads=frozenset(workloads),
        command=command,
        versions=of_distributions(*_DISTRIBUTIONS),
        settings=f"{executor} executor, --order {order}, --concurrency: slots; else as by default, logs at info",
    )


PEERS = (
    _peer("threads", "thread", {"W1", "W2-64", "W2-256", "W4", "W5", "W10", "W1-kill"}),
    _peer("threads, key order", "thread", {"W1", "W4"}, order="key"),
    _peer("coroutines", "coroutine", {"W1", "W2-64", "W2-256", "W4"}),
    _peer("processes", "process", {"W1", "W3"}),
)
