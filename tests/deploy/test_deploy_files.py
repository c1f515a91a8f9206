"""The compose file and the systemd unit name what exists, and agree with the image, the worker and the suite."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.distribution import VERSION
from kworker.cli.options import sources
from kworker.config import Config

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml by name."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose) == {"name", "services", "volumes"}
    services: dict[str, Any] = compose["services"]
    return services


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


UNIT = ROOT / "deploy" / "systemd" / "kworker@.service"


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    """What the systemd unit says of the service; it must say each thing once."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    return dict(parser["Service"])


def test_systemd_runs_a_command_that_is_one_with_a_file_that_it_hands_over(
    unit: dict[str, str], tmp_path: Path
) -> None:
    program, *arguments = shlex.split(unit["ExecStart"])
    name, _, source = unit["LoadCredential"].partition(":")
    (tmp_path / name).write_text('group = "accounting"\nworkers = 4\n')
    assert (Path(program).name, arguments) == ("kworker", ["--config", f"%d/{name}"])
    assert source == "/etc/kworker/%i.toml"
    config = Config.load(*sources({"config": str(tmp_path / name)}))
    assert (config.group, config.workers) == ("accounting", 4)


def test_systemd_lets_workers_drain_and_signals_the_main_process_alone(unit: dict[str, str]) -> None:
    # A worker has 15 s after its drain before its supervisor kills it.
    assert int(unit["TimeoutStopSec"]) >= Config().drain_timeout + 15
    assert unit["KillMode"] == "mixed"
    assert unit["TimeoutStartSec"] == "infinity"  # --setup-timeout counts, and a broker that is away is waited for


def test_systemd_hears_of_a_worker_that_stands_still_after_the_worker_itself(unit: dict[str, str]) -> None:
    assert (unit["Type"], unit["NotifyAccess"], unit["Restart"]) == ("notify", "main", "always")
    assert int(unit["WatchdogSec"]) > Config().stall_timeout
    assert unit["RestartPreventExitStatus"] == "2 5"  # as a supervisor of kworker has it


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "kworker@test.service"
    program = shutil.which("true")
    copy.write_text(UNIT.read_text().replace("/opt/kworker/bin/kworker", str(program)))
    verified = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
