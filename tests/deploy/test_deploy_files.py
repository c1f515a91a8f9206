"""The image and the compose file hold together: what they name exists, and they agree with each other and the suite."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from kit.distribution import VERSION

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, value) of the Dockerfile, in order."""
    parser = DockerfileParser(str(DOCKERFILE))
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml by name."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose) == {"name", "services", "volumes"}
    services: dict[str, Any] = compose["services"]
    return services


def copied(instructions: list[tuple[str, str]]) -> list[str]:
    """What the Dockerfile copies out of the repository."""
    copies = [shlex.split(value) for name, value in instructions if name == "COPY" and not value.startswith("--from")]
    return [source for words in copies for source in words[:-1]]


def test_image_is_built_of_files_that_exist_and_pass_the_ignore_file(instructions: list[tuple[str, str]]) -> None:
    sources = copied(instructions)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    let_in = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == set(sources)


def test_image_runs_kworker_as_nobody_in_particular(instructions: list[tuple[str, str]]) -> None:
    assert instructions[-1] == ("ENTRYPOINT", '["kworker"]')
    assert [value for name, value in instructions if name == "USER"] == ["65532:65532"]
    assert len([name for name, _ in instructions if name == "FROM"]) == 2


def test_image_installs_offline_what_the_first_stage_built_once(instructions: list[tuple[str, str]]) -> None:
    wheels, install = (value for name, value in instructions if name == "RUN")
    assert shlex.split(wheels)[-2:] == [".", "./plugins/*"]
    assert "--no-index --find-links /wheels" in install
    assert "from=wheels" in install


def test_compose_builds_that_image_and_lets_the_worker_drain(services: dict[str, Any]) -> None:
    worker = services["worker"]
    context = (ROOT / "deploy" / worker["build"]["context"]).resolve()
    assert context / worker["build"]["dockerfile"] == DOCKERFILE
    assert int(worker["stop_grace_period"].removesuffix("s")) > 25
    assert worker["depends_on"] == ["kafka"]


def test_compose_worker_talks_to_the_listener_that_kafka_advertises_to_it(services: dict[str, Any]) -> None:
    command, kafka = services["worker"]["command"], services["kafka"]
    bootstrap = command[command.index("--bootstrap") + 1]
    assert f"INTERNAL://{bootstrap}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert kafka["image"] == f"apache/kafka:{VERSION}"
    assert all(isinstance(value, str) for value in kafka["environment"].values())


def test_compose_kafka_starts_with_these_properties(services: dict[str, Any]) -> None:
    names = {name.removeprefix("KAFKA_").replace("_", ".").lower() for name in services["kafka"]["environment"]}
    assert {"node.id", "process.roles", "listeners", "advertised.listeners", "controller.listener.names"} <= names
    listeners = services["kafka"]["environment"]["KAFKA_LISTENERS"].split(",")
    mapped = services["kafka"]["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    assert [name.split(":")[0] for name in listeners] == [name.split(":")[0] for name in mapped]
