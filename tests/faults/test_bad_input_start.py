"""FAULTS.md "Bad input": what a worker refuses at its start, in one line that says what is wrong and where.

None of these reach a broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.bad_records import new
from kit import Kafka, MakeTopic, produce, wait_for
from kit.worker_process import WorkerProcess

GOOD = 'from kworker import task\n@task("greet")\ndef greet(name: str) -> None:\n    open("greeted", "a").write(name)\n'


def install(site: Path, plugin: str, source: str, distribution: str = "") -> None:
    """Make a plugin of one module that entry points find when `site` is on the path."""
    information = site / f"{distribution or plugin}-1.dist-info"
    information.mkdir(parents=True)
    (site / f"{plugin}_module_{distribution}.py").write_text(source)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or plugin}\nVersion: 1\n")
    entry = f"[kworker.plugins]\n{plugin} = {plugin}_module_{distribution}\n"
    (information / "entry_points.txt").write_text(entry)


def refused(folder: Path, *arguments: str, toml: str = "") -> tuple[int, str]:
    """The exit code of a worker that must not start, and what it said."""
    (folder / "kworker.toml").write_text(toml)
    command = [sys.executable, "-m", "kworker", "--group", "x", "--bootstrap", "127.0.0.1:1", "--admin-port", "0"]
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    answer = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    return answer.returncode, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("topics", "toml"),
    [
        pytest.param(["orders", "orders.dlq"], "", id="a topic and its dead letters"),
        pytest.param(["orders"], '[topics."orders"]\ndead_letter = "orders"\n', id="its own dead letters"),
        pytest.param(
            ["orders", "failed"],
            '[topics."orders"]\ndead_letter = "failed"\n[topics."failed"]\ndead_letter = "orders"\n',
            id="a cycle of two",
        ),
        pytest.param(["^ord", "orders.dlq"], "", id="a pattern and a dead-letter topic"),
        pytest.param(["kworker.retry.x"], "", id="kworker's own topic"),
    ],
)
def test_bad_input_27_a_retry_loop(tmp_path: Path, topics: list[str], toml: str) -> None:
    code, said = refused(tmp_path, *(argument for topic in topics for argument in ("--topic", topic)), toml=toml)
    assert code == 2, said
    assert any(topic in line for line in said.splitlines() for topic in topics), said
    assert "Traceback" not in said


BROKEN = {
    "a missing import": ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
    "a syntax error": ("def :\n", "SyntaxError"),
    "raises at import": ("raise RuntimeError('not\\ntoday')\n", "RuntimeError: not today"),
    "ends the process at import": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "interrupts at import": ("raise BaseException('odd')\n", "BaseException: odd"),
    "has no task": ("x = 1\n", "no function marked with @task"),
    "takes *args": (
        "from kworker import task\n@task('greet')\ndef greet(*names: str) -> None: ...\n",
        "a message cannot fill *args",
    ),
    "fails in setup": (
        "from kworker import Plugin, task\nclass P(Plugin):\n    def setup(self, settings):\n        1 / 0\n"
        "    @task('greet')\n    def greet(self) -> None: ...\n",
        "setup failed: ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_input_36_a_plugin_that_cannot_be_loaded(tmp_path: Path, what: str) -> None:
    source, why = BROKEN[what]
    install(tmp_path / "site", "broken", source)
    code, said = refused(tmp_path, "--plugin", "broken")
    assert code == 5, said
    (line,) = [line for line in said.splitlines() if why in line]
    assert line.startswith('kworker: plugin "broken" (broken 1)'), said
    assert "Traceback" not in said


def test_bad_input_36_a_duplicate_task_names_both_distributions(tmp_path: Path) -> None:
    for name in ("one", "two"):
        install(tmp_path / "site", name, GOOD)
    code, said = refused(tmp_path, "--plugin", "one", "--plugin", "two")
    assert code == 5
    assert 'plugin "two" (two 1): task "greet" is already a task of plugin "one" (one 1)' in said


def test_bad_input_36_a_duplicate_plugin_names_both_distributions(tmp_path: Path) -> None:
    for distribution in ("first", "second"):
        install(tmp_path / "site", "same", GOOD, distribution)
    code, said = refused(tmp_path, "--plugin", "same")
    assert code == 5
    assert "(first 1)" in said
    assert "(second 1)" in said


def test_bad_input_36_a_plugin_that_is_not_installed(tmp_path: Path) -> None:
    install(tmp_path / "site", "good", GOOD)
    code, said = refused(tmp_path, "--plugin", "goood")
    assert code == 5
    assert 'plugin "goood" is not installed; installed: ' in said


def test_bad_input_36_what_is_not_on_the_allow_list_is_not_imported(
    tmp_path: Path, kafka: Kafka, topic: MakeTopic
) -> None:
    """A broken plugin beside it and a slow import: the allowed one starts, late, and works."""
    install(tmp_path / "site", "broken", "raise RuntimeError('imported')\n")
    install(tmp_path / "site", "slow", "import time\ntime.sleep(2)\n" + GOOD)
    name = topic()
    produce(kafka.bootstrap, name, [new("greet", b'{"name": "good"}')])
    arguments = ["--group", name, "--topic", name, "--bootstrap", kafka.bootstrap, "--plugin", "slow"]
    worker = WorkerProcess(tmp_path, *arguments, site=[tmp_path / "site"])
    try:
        greeted = tmp_path / "greeted"
        wait_for(lambda: greeted.exists() and greeted.read_text() == "good", 20, "the task ran")
        worker.terminate()
        assert worker.wait(20) == 0
        assert "imported" not in worker.logged()
    finally:
        worker.close()
