"""All peers, in the order in which tables show them."""

from benchmarks.peer import Peer
from benchmarks.peers import consume_loop, kworker, parallel_consumer, poll_loop, thread_pool

ALL: tuple[Peer, ...] = (
    *kworker.PEERS,
    *consume_loop.PEERS,
    *poll_loop.PEERS,
    *thread_pool.PEERS,
    *parallel_consumer.PEERS,
)
