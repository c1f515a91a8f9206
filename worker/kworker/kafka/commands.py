"""Commands of Kafka's own tools, to be pasted: they do what kworker could not, or may not, do itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # public, but its types do not re-export it


def command(bootstrap: str, kafka: Mapping[str, Any], tool: str, *words: str) -> str:
    """A call of one of the tools. kafka: librdkafka properties; where they ask for security, the tool needs a file."""
    secure = str(kafka.get("security.protocol", "plaintext")).lower() != "plaintext"
    security = ["--command-config", "client.properties"] if secure else []
    return shlex.join([tool, "--bootstrap-server", bootstrap, *security, *words])


def create_command(bootstrap: str, kafka: Mapping[str, Any], plan: NewTopic) -> str:
    """The call that makes a topic as planned."""
    words = ["--create", "--topic", plan.topic, "--partitions", str(plan.num_partitions)]
    if plan.replication_factor > 0:
        words += ["--replication-factor", str(plan.replication_factor)]
    for name, value in (plan.config or {}).items():
        words += ["--config", f"{name}={value}"]
    return command(bootstrap, kafka, "kafka-topics.sh", *words)
