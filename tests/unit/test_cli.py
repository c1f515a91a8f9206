"""The command line: which command is meant, how faults are told, which code comes back."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from kworker import __version__, cli, loading
from kworker.config import Config
from kworker.config.options import OPTIONS
from kworker.errors import ConfigError, FatalKafkaError
from kworker.registry import Registry

PLUGIN = """
from msgspec import Struct
from kworker import Plugin, task

class Settings(Struct):
    key: str

class Post(Plugin):
    Settings = Settings

    @task("post", timeout="30s", max_attempts=3, concurrency=2)
    def post(self, url: str) -> None: ...

    @task("ping", needs_settings=False)
    def ping(self) -> None: ...
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # no kworker.toml of anybody else
    yield
    assert not [h for h in logging.getLogger().handlers if type(h).__module__ == "kworker.logs"], (
        "logs were not stopped"
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations with which a worker was started; it ends at once with code 4."""
    configs: list[Config] = []

    def run_worker(config: Config) -> int:
        configs.append(config)
        return 4

    worker = types.ModuleType("kworker.worker")
    worker.run_worker = run_worker  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "kworker.worker", worker)
    monkeypatch.setattr(os, "_exit", sys.exit)  # the command leaves without waiting; pytest is to stay
    return configs


def install(folder: Path, name: str, module: str) -> None:
    """Install a distribution with one plugin."""
    (folder / f"{name}_tasks.py").write_text(module)
    info = folder / f"kworker_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kworker-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[kworker.plugins]\n{name} = {name}_tasks\n")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        cli.main(list(arguments))
    return int(exit.value.code or 0)


def test_the_help_names_every_command_and_imports_no_kafka_client() -> None:
    code = (
        "import sys\nfrom kworker.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print('imported:', [name for name in ('confluent_kafka', 'tenacity') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in cli.COMMANDS if f"  {name} " not in answer] == []
    assert "imported: []" in answer


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_help_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"Usage: kworker {name} " in capsys.readouterr().out


def test_alone_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"kworker {__version__}\n"


def test_options_alone_are_those_of_run(started: list[Config]) -> None:
    assert run("--group", "g", "--topic", "a", "--topic", "b", "--from", "latest", "-X", "client.rack=r") == 4
    assert run("run", "--group", "h") == 4
    assert [config.group for config in started] == ["g", "h"]
    assert (started[0].topics, started[0].start_from, started[0].kafka) == (("a", "b"), "latest", {"client.rack": "r"})


def test_run_has_a_flag_for_every_option_and_tells_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert [option.flag for option in OPTIONS if f"{option.flag} {option.metavar}" not in text] == []
    assert "[default: 25s]" in text
    assert "[default: 64MiB]" in text


def test_environment_and_the_file_of_the_working_directory_count(
    started: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kworker.toml").write_text('group = "file"\nconcurrency = 3\n')
    monkeypatch.setenv("KWORKER_CONCURRENCY", "4")
    monkeypatch.setenv("KWORKER_TOPICS", "typo")
    assert run("run") == 4
    assert (started[0].group, started[0].concurrency) == ("file", 4)
    said = capfd.readouterr().err
    assert f"file={tmp_path / 'kworker.toml'}" in said
    assert "KWORKER_TOPICS is no option and is ignored: is KWORKER_TOPIC meant?" in said


def test_every_fault_is_told_on_a_line_of_its_own(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--order", "x", "--concurrency", "0", "-X", "acks=1", "-X", "nope=1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("kworker: ") for line in lines)
    assert not started


def test_an_unknown_option_or_command_is_a_usage_error(started: list[Config]) -> None:
    assert run("--grup", "g") == 2
    assert run("frobnicate") == 2


@pytest.mark.parametrize(("error", "code"), [(ConfigError(["a", "b"]), 2), (FatalKafkaError("gone"), 3)])
def test_an_error_becomes_its_exit_code_without_a_trace(
    error: Exception,
    code: int,
    started: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_worker(config: Config) -> int:
        raise error

    monkeypatch.setattr(sys.modules["kworker.worker"], "run_worker", run_worker)
    assert run("--group", "g") == code
    said = capsys.readouterr().err
    assert said.splitlines() == [f"kworker: {line}" for line in str(error).splitlines()]


def test_no_secret_is_logged_even_at_debug(
    started: list[Config], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pw").write_text("hunter2-file")
    (tmp_path / "kworker.toml").write_text('[plugins.http]\nsecret = "hunter2-plugin"\n')
    secure = ("-X", "security.protocol=sasl_ssl", "-X", "sasl.mechanism=PLAIN", "-X", "sasl.username=u")
    file = f"sasl.password.file={tmp_path / 'pw'}"
    assert run("--group", "g", "--log-level", "debug", *secure, "-X", file, "-X", "ssl.key.password=hunter2-flag") == 4
    said = capfd.readouterr()
    assert "sasl.password" in said.err  # the configuration is logged
    assert "hunter2" not in said.out + said.err
    assert started[0].kafka["sasl.password"] == "hunter2-file"


def test_plugins_tells_what_is_installed_and_what_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "poster", PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    assert run("plugins", "--plugin", "poster") == 0
    head, post, ping = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:6] == ["PLUGIN", "TASK", "EXECUTOR", "TIMEOUT", "ATTEMPTS", "AT"]
    assert post[:9] == ["poster", "post", "thread", "30s", "3", "2", "kworker-poster", "1.2", "unavailable:"]
    assert ping == ["poster", "ping", "thread", "300s", "8", "any", "kworker-poster", "1.2"]

    (tmp_path / "kworker.toml").write_text('[plugins.poster]\nkey = "k"\n[tasks.post]\ntimeout = "1s"\n')
    assert run("plugins", "--plugin", "poster", "--json") == 0
    (plugin,) = json.loads(capsys.readouterr().out)
    assert (plugin["name"], plugin["distribution"], plugin["version"]) == ("poster", "kworker-poster", "1.2")
    assert [(t["name"], t["available"], t["timeout"]) for t in plugin["tasks"]] == [
        ("post", True, 1),
        ("ping", True, 300),
    ]
    assert plugin["tasks"][0]["arguments"]


def test_plugins_that_are_chosen_are_not_blamed_for_tables_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "poster", PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kworker.toml").write_text('[tasks.of-another]\ntimeout = "1s"\n[tasks.ping]\nmax_attempts = 3\n')
    loads: list[object] = []
    load = loading.load

    def once(*args: Any, **options: Any) -> Registry:
        loads.append(args)
        return load(*args, **options)

    monkeypatch.setattr(loading, "load", once)
    assert run("plugins", "--plugin", "poster") == 0
    assert len(loads) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "of-another" not in said.out
    assert run("plugins") == 5  # without a choice it may be a slip
    assert "of-another" in capsys.readouterr().err


def test_plugins_tells_the_schemas_of_tasks_and_the_worker_as_asyncapi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "poster", PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    assert run("plugins", "--plugin", "poster", "--schema") == 0
    every = json.loads(capsys.readouterr().out)
    assert sorted(every) == ["ping", "post"]
    assert every["ping"].keys() == {"json_schema", "avro_schema", "avro_origin", "avro_missing"}
    assert run("plugins", "--plugin", "poster", "--schema", "ping") == 0
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ({"ping": every["ping"]}, "")
    assert run("plugins", "--plugin", "poster", "--schema", "pong") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "'pong'" in said.err
    assert "ping" in said.err

    assert run("plugins", "--plugin", "poster", "--asyncapi", "--group", "g", "--topic", "letters") == 0
    said = capsys.readouterr()
    whole = json.loads(said.out)
    assert (whole["asyncapi"], whole["channels"]["letters"]["address"], said.err) == ("3.0.0", "letters", "")
    assert [*whole["channels"]["letters"]["messages"]] == ["ping"]  # post has no settings here

    assert run("plugins", "--json", "--schema") == 2
    assert capsys.readouterr().out == ""


def test_plugins_shows_the_others_when_one_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "sound", PLUGIN)
    install(tmp_path, "broken", "raise ValueError('no luck')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kworker.toml").write_text("[tasks.gone]\nmax_attempts = 2\n")
    assert run("plugins", "--plugin", "sound", "--plugin", "broken", "--plugin", "absent") == 5
    said = capsys.readouterr()
    assert "ping" in said.out
    assert "ValueError: no luck" in said.err
    assert '"absent" is not installed' in said.err

    assert run("plugins", "--plugin", "sound", "--plugin", "broken", "--schema", "of.broken") == 2
    assert "ValueError: no luck" in capsys.readouterr().err  # very likely why there is no such task


def test_click_is_told_nothing_of_defaults_so_that_the_configuration_decides() -> None:
    command = cli.kworker.get_command(click.Context(cli.kworker), "run")
    assert isinstance(command, click.Command)
    given = {parameter.name: parameter for parameter in command.params}
    assert [name for name, parameter in given.items() if parameter.envvar or parameter.required] == []
    assert {option.name for option in OPTIONS} | {"config", "kafka"} == set(given)


WORKER = """
import os, sys, types

def run_worker(config):
    print("what a plugin prints")
    null = os.stat(os.devnull).st_rdev
    return 4 if all(os.fstat(number).st_rdev == null for number in CLOSED) else 9

sys.modules["kworker.worker"] = worker = types.ModuleType("kworker.worker")
worker.run_worker = run_worker
from kworker.cli import main
main(["--group", "g"])
"""


def _code_of_worker(closed: list[int], stdout: int) -> int:
    def close() -> None:
        for number in closed:
            os.close(number)

    return subprocess.run(
        [sys.executable, "-c", WORKER.replace("CLOSED", str(closed))],
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        preexec_fn=close,
        timeout=30,
        check=False,
    ).returncode


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_no_file_of_a_worker_has_the_number_of_a_standard_descriptor_that_came_closed(closed: list[int]) -> None:
    assert _code_of_worker(closed, subprocess.DEVNULL) == 4


def test_a_pipe_that_nobody_reads_does_not_change_the_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert _code_of_worker([], writer) == 4
    finally:
        os.close(writer)
