"""What most people write first: `poll()`, run, again; offsets committed every second; no concurrency."""

from __future__ import annotations

from benchmarks.peer import Peer, module, of_distributions

PEERS = (
    Peer(
        name="raw poll loop",
        workloads=frozenset({"W1", "W3", "W5", "W10", "W1-kill"}),
        command=module(__name__),
        versions=of_distributions("confluent-kafka"),
        settings="poll(0.1); json.loads; async commit every second",
    ),
)


def main() -> None:
    """The worker."""
    from benchmarks.bodies import run
    from benchmarks.reader import reading

    with reading() as reader:
        while not reader.stopping:
            if (value := reader.one(0.1)) is not None:
                run(value)
            reader.tick()


if __name__ == "__main__":
    main()
