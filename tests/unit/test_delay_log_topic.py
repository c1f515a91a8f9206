"""The topic of the delay log: what may be set there, and the commands that put it right."""

from __future__ import annotations

import pytest

from kworker.config import Config
from kworker.kafka.delaylog import HOUR_MS, WANTED, DelayLog, faults, keeper_settings, retention_of


def test_what_kworker_makes_is_right() -> None:
    assert faults(WANTED) == {}
    assert faults({}) == {}


@pytest.mark.parametrize("policy", ["delete", "compact,delete", " delete , compact ", ""])
def test_a_policy_that_deletes_loses_tasks(policy: str) -> None:
    assert faults({**WANTED, "cleanup.policy": policy}) == {"cleanup.policy": "compact"}


def test_tombstones_and_entries_stay_for_a_while() -> None:
    short = {**WANTED, "delete.retention.ms": "1000", "min.compaction.lag.ms": "0"}
    assert faults(short) == {name: WANTED[name] for name in ("delete.retention.ms", "min.compaction.lag.ms")}
    other = {**WANTED, "delete.retention.ms": str(2 * HOUR_MS), "segment.ms": "1000"}
    assert faults(other) == {}
    assert retention_of(other) == 7200


def test_the_commands_can_be_pasted() -> None:
    log = DelayLog(Config(bootstrap="b:1", namespace="a b", kafka={"security.protocol": "ssl"}))
    assert log.repair_command({"cleanup.policy": "compact"}) == (
        "kafka-configs.sh --bootstrap-server b:1 --command-config client.properties --alter --topic 'a b.delayed' "
        "--add-config cleanup.policy=compact"
    )
    made = log.create_command(4)
    assert "--create --topic 'a b.delayed' --partitions 4 --config cleanup.policy=compact" in made
    assert all(f"{name}={value}" in made for name, value in WANTED.items())


def test_the_owner_reads_its_topic_whatever_the_worker_leaves_out() -> None:
    settings = keeper_settings(Config(group="g", topics=("^orders",)))
    assert "topic.blacklist" not in settings
    assert (settings["group.id"], settings["isolation.level"]) == ("kworker.timekeeper", "read_committed")
    assert settings["session.timeout.ms"] == "6000"


def test_how_a_workers_own_group_works_says_nothing_of_the_group_that_all_share() -> None:
    own = {
        "group.protocol": "consumer",
        "group.instance.id": "pod-0",
        "client.id": "mine",
        "session.timeout.ms": "60000",
    }
    shared = keeper_settings(Config(group="g", kafka=own))
    assert shared["group.id"] == "kworker.timekeeper"
    assert shared["client.id"] == "mine"
    assert "group.protocol" not in shared
    assert "group.instance.id" not in shared
    assert shared["partition.assignment.strategy"] == "cooperative-sticky"
    assert shared["session.timeout.ms"] == keeper_settings(Config(group="h"))["session.timeout.ms"]
