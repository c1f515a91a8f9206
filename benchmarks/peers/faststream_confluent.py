"""FastStream on confluent-kafka: a batch at a time, then acknowledged; or records, acknowledged before."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.environment import Environment
from benchmarks.peer import Peer
from benchmarks.place import Place

ENVIRONMENT = Environment("faststream", ("faststream", "confluent-kafka"))
BATCH = 1000


def _peer(name: str, settings: str, workloads: set[str], most: int) -> Peer:
    return Peer(
        name=f"FastStream {name}",
        workloads=frozenset(workloads),
        command=ENVIRONMENT.module(__name__, name),
        versions=ENVIRONMENT.versions,
        settings=f"{settings}; json.loads; {most:,} tasks at most",
        most=most,
    )


PEERS = (
    _peer(
        "batch",
        f"batch, {BATCH} records, all at once in asyncio.gather, then ack",
        {"W1", "W2-64", "W4", "W5"},
        200_000,
    ),
    _peer("ack-first", "max_workers: slots, AckPolicy.ACK_FIRST", {"W1", "W2-64", "W4"}, 20_000),
)


def main(name: str) -> None:
    """The worker."""
    from faststream import AckPolicy, FastStream
    from faststream.confluent import KafkaBroker

    from benchmarks.bodies import awaited

    place = Place.given()
    broker = KafkaBroker(place.bootstrap, logger=None)
    common: dict[str, Any] = {"group_id": place.group, "auto_offset_reset": "earliest", "decoder": _as_it_is}
    if name == "batch":
        slots = asyncio.Semaphore(place.slots)

        async def one(value: bytes) -> None:
            async with slots:
                await awaited(value)

        @broker.subscriber(place.topic, batch=True, max_records=BATCH, ack_policy=AckPolicy.ACK, **common)  # type: ignore[untyped-decorator]
        async def batch(values: list[bytes]) -> None:
            await asyncio.gather(*map(one, values))

    else:

        @broker.subscriber(place.topic, max_workers=place.slots, ack_policy=AckPolicy.ACK_FIRST, **common)  # type: ignore[untyped-decorator]
        async def single(value: bytes) -> None:
            await awaited(value)

    asyncio.run(FastStream(broker, logger=None).run())


async def _as_it_is(message: Any) -> Any:
    return message.body


if __name__ == "__main__":
    main(*sys.argv[1:])
