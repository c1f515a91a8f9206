"""The limit in one CPython process: `consume(1000)`, each task run on the spot, offsets committed; no concurrency."""

from __future__ import annotations

from benchmarks.peer import Peer, module, of_distributions

BATCH = 1000
TIMEOUT = 0.05  # consume() waits for the whole batch or this: it is the latency at low rates

PEERS = (
    Peer(
        name="raw consume loop",
        workloads=frozenset({"W1", "W5", "W10", "W1-kill"}),
        command=module(__name__),
        versions=of_distributions("confluent-kafka"),
        settings=f"consume({BATCH}, {TIMEOUT}); json.loads; async commit every second",
    ),
)


def main() -> None:
    """The worker."""
    from benchmarks.bodies import run
    from benchmarks.reader import reading

    with reading() as reader:
        while not reader.stopping:
            for value in reader.batch(BATCH, TIMEOUT):
                run(value)
            reader.tick()


if __name__ == "__main__":
    main()
