"""Whether the client is a member of its group where no callback tells it.

In the classic protocol each member is assigned something, be it nothing. With KIP-848 a member that is given nothing
hears nothing; but its epoch is above 0 as soon as the coordinator has taken it in, and 0 when it was thrown out.
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer

_LOOK = 1.0
_MAGIC = b"CGMDv2:"  # how librdkafka writes what it knows of the group: then 4 bytes of the epoch, little-endian


class Membership:
    """Used by the intake thread. settings: of the consumer."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        self._silent = str(settings.get("group.protocol", "classic")).lower() == "consumer"
        self._next_look = 0.0

    def holds(self, consumer: Consumer, told: bool, now: float) -> bool:
        """Whether the coordinator has this member; `told`: what is known so far, and said until it is time to look.

        now: by the monotonic clock. It takes microseconds: the broker is not asked.
        """
        if not self._silent or now < self._next_look:
            return told
        self._next_look = now + _LOOK
        known = bytes(consumer.consumer_group_metadata())
        if not known.startswith(_MAGIC):  # another release of librdkafka: only its callbacks tell
            return told
        return int.from_bytes(known[len(_MAGIC) :][:4], "little", signed=True) > 0
