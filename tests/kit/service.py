"""Somebody who answers: topics for tasks and for replies, and a worker of the plugin `answers` that serves them."""

from __future__ import annotations

from pathlib import Path

from kit.stage import Stage
from kworker import Client

PLUGIN = Path(__file__).parent / "answers"


class Service:
    """See the module. It runs from here on, on a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tasks, self.replies = stage.topic(3), stage.topic(2)
        stage.topic(name=f"{self.tasks}.dlq")  # there before the first call, so that no failure is told late
        arguments = ("--plugin", "answers", "--reply-topic", self.replies)
        self.worker = stage.start(*arguments, topics=[self.tasks], site=[PLUGIN])

    def client(self) -> Client:
        """A client of its topics."""
        return Client(self.stage.bootstrap, topic=self.tasks, reply_topic=self.replies)
