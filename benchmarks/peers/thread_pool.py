"""What people write next: a batch to a ThreadPoolExecutor (processes for CPU), wait for all of it, commit."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait

from benchmarks.peer import Peer, module, of_distributions
from benchmarks.place import Place

BATCH = 1000
TIMEOUT = 0.05
CHUNK = 16  # tasks to a child at once; one by one, pipes would cost more than the tasks

PEERS = (
    Peer(
        name="hand-written pool",
        workloads=frozenset(
            {"W1", "W2-64", "W2-256", "W3", "W4", "W5", "W10", "W1-kill", "W9-1", "W9-2", "W9-4", "W11", "W2-kill"}
        ),
        command=module(__name__),
        versions=of_distributions("confluent-kafka"),
        settings=f"consume({BATCH}, {TIMEOUT}) to a ThreadPoolExecutor of as many threads as slots (W3: a "
        f"ProcessPoolExecutor, {CHUNK} at once); json.loads; waits for the batch, then commits as every second",
    ),
)


def main() -> None:
    """The worker."""
    from benchmarks.bodies import run
    from benchmarks.reader import reading

    place = Place.given()
    by_processes = place.body == "burn"
    pool: Executor = ProcessPoolExecutor(place.processes) if by_processes else ThreadPoolExecutor(place.slots)
    if by_processes:  # forked before there is a Kafka client, which no child survives
        list(pool.map(abs, range(place.processes * 4)))
    with pool, reading() as reader:
        while not reader.stopping:
            values = reader.batch(BATCH, TIMEOUT)
            if by_processes:
                list(pool.map(run, values, chunksize=CHUNK))
            else:
                for future in wait([pool.submit(run, value) for value in values]).done:
                    future.result()
            reader.tick()


if __name__ == "__main__":
    main()
