"""Workers whose long retries wait in a delay log of their own, after a second in memory."""

from __future__ import annotations

import uuid

from confluent_kafka.admin import AdminClient

from kit.stage import Stage, metric
from kit.worker_process import WorkerProcess
from kworker.core.delayed import log_of, retry_topic


class Retrying:
    """A stage whose workers have a namespace of their own. topic: what they read, unless they are told otherwise."""

    def __init__(self, stage: Stage, partitions: int = 2) -> None:
        self.stage = stage
        self.bootstrap = stage.bootstrap
        self.namespace = f"again-{uuid.uuid4().hex[:10]}"
        self.log = log_of(self.namespace)
        self.retries = retry_topic(self.namespace, stage.group)
        self.topic = stage.topic(partitions)

    def worker(self, *arguments: str, topic: str = "") -> WorkerProcess:
        """Start one."""
        given = ("--namespace", self.namespace, "--retry-in-memory", "1s", *arguments)
        return self.stage.start(*given, topics=[topic or self.topic])

    def warm_up(self, worker: WorkerProcess) -> None:
        """Have the delay log and the retry topic made by a task, the first of partition 0, that waits for an hour."""
        self.stage.publish(self.topic, "later", [3600], partition=0)
        self.stage.wait(lambda: delayed(worker) == 1, "the delay log is used", worker)

    def topics(self) -> set[str]:
        """Those that there are."""
        return set(AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=10).topics)

    def attempts(self, n: int) -> list[int]:
        """The numbers of the attempts that a task of the probe plugin began."""
        return [noted.attempt for noted in self.stage.noted() if (noted.event, noted.n) == ("began", n)]


def delayed(worker: WorkerProcess) -> float:
    """How many retries it has sent to the delay log."""
    return metric(worker, "kworker_tasks_delayed_total")
