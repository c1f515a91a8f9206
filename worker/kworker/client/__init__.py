"""Publish tasks from Python, and call them: `Client`, and `AsyncClient`, its asyncio twin.

Each owns one idempotent producer (`acks=all`) and one thread that serves its delivery reports. What `publish` returns
has been acknowledged by every in-sync replica; anything else is a `PublishError` with the broker's reason. From its
first `call` on it also owns one Consumer and the thread that reads replies with it.

Fork: a client does not survive one (its threads and sockets stay with the parent). Make it after the fork, in each
process of a pre-forking server; a client used in a child raises RuntimeError.
"""

from kworker.client.asynchronous import AsyncClient
from kworker.client.blocking import Client
from kworker.client.message import Message, Published, as_avro

__all__ = ["AsyncClient", "Client", "Message", "Published", "as_avro"]
