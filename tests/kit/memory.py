"""Records that never saw a Kafka: what the tests of the pure core feed it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kworker.task import Headers


@dataclass(eq=False, slots=True)
class MemoryRecord:
    """A kworker.task.Record of given parts; each has a default that a test may not care about.

    spoiled: `headers()` raises, as confluent_kafka does when a header's name is not UTF-8. Asked again, the real one
    answers with null pointers (2.16), so that is a mistake here.
    """

    at_offset: int = 0
    headers_given: Headers | None = None
    key_given: bytes | None = None
    value_given: bytes | None = b"{}"
    at_partition: int = 0
    in_topic: str = "tasks"
    time: tuple[int, int] = field(default=(1, 1_764_000_000_000))
    spoiled: bool = False
    asked: bool = False

    def topic(self) -> str:
        return self.in_topic

    def partition(self) -> int:
        return self.at_partition

    def offset(self) -> int:
        return self.at_offset

    def key(self) -> bytes | None:
        return self.key_given

    def value(self) -> bytes | None:
        return self.value_given

    def headers(self) -> Headers | None:
        if self.spoiled:
            assert not self.asked, "a real record would have ended the process"
            self.asked = True
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return self.headers_given

    def timestamp(self) -> tuple[int, int]:
        return self.time
