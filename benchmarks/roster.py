"""All peers, in the order in which tables show them."""

from benchmarks import pieces, publishing, starting
from benchmarks.peer import Peer
from benchmarks.peers import (
    arroyo,
    celery_redis,
    consume_loop,
    faststream_confluent,
    kworker,
    parallel_consumer,
    poll_loop,
    pyrallel,
    taskiq_kafka,
    thread_pool,
)

ALL: tuple[Peer, ...] = (
    *kworker.PEERS,
    *consume_loop.PEERS,
    *poll_loop.PEERS,
    *thread_pool.PEERS,
    *parallel_consumer.PEERS,
    *pyrallel.PEERS,
    *celery_redis.PEERS,
    *faststream_confluent.PEERS,
    *taskiq_kafka.PEERS,
    *arroyo.PEERS,
    *publishing.PEERS,
    *starting.PEERS,
    *pieces.PEERS,
)
