"""`kworker dev`: one command gives a broker, a worker and the lines to try them with."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import read_all, wait_for
from kit.leash import leashed
from kworker.kafka.embedded import PARTITIONS

PLUGIN = """
from pathlib import Path
from kworker import task

@task("note.write")
def write(text: str, times: int = 1) -> None:
    with Path("notes.txt").open("a") as notes:
        notes.write(times * text + "\\n")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which one plugin is installed, and settings that must not count for the embedded broker."""
    site = tmp_path / "site"
    information = site / "note-1.dist-info"
    information.mkdir(parents=True)
    (site / "note.py").write_text(PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: note\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[kworker.plugins]\nnote = note\n")
    path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "KWORKER_BOOTSTRAP": "127.0.0.1:1",
        "KWORKER_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "KWORKER_KAFKA_SASL_MECHANISM": "PLAIN",
        "KWORKER_KAFKA_SASL_USERNAME": "somebody",
        "KWORKER_KAFKA_SASL_PASSWORD": "secret",
    }


@pytest.fixture
def banner(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """What a running `kworker dev` printed first; it ends with 0 when it is told to stop."""
    command = leashed(sys.executable, "-m", "kworker", "dev", "--plugin", "note", "--admin-port", "0")
    out, err = tmp_path / "out", tmp_path / "err"
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment, cwd=tmp_path) as process,
    ):
        try:
            wait_for(
                lambda: "kcat -C" in out.read_text() or process.poll() is not None, 30, f"the banner; {err.read_text()}"
            )
            yield out.read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, err.read_text()
        finally:
            process.kill()


def publish_command(banner: str) -> list[str]:
    found = re.search(r"^  kworker (publish .*)$", banner, re.M)
    assert found is not None
    return [sys.executable, "-m", "kworker", *shlex.split(found[1])]


def test_its_lines_work_as_they_are_printed(banner: str, environment: dict[str, str], tmp_path: Path) -> None:
    assert "NOTHING IS KEPT" in banner
    assert re.search(r"^  tasks +note\.write$", banner, re.M)
    assert re.search(r"^  group +dev$", banner, re.M)
    command = publish_command(banner)
    for _ in range(2):
        said = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert said.returncode == 0, said.stderr
        assert re.fullmatch(r"tasks/[0-3]/[0-9]+\n", said.stdout)
    notes = tmp_path / "notes.txt"
    wait_for(lambda: notes.exists() and notes.read_text() == "text\ntext\n", 30, "both tasks to run")
    metrics = re.search(r"http://\S+/metrics", banner)
    assert metrics is not None
    with urllib.request.urlopen(metrics[0], timeout=10) as page:
        assert b'kworker_tasks_succeeded_total{task="note.write"} 2' in page.read()


def test_what_fails_is_in_the_dead_letter_topic_it_names(
    banner: str, environment: dict[str, str], tmp_path: Path
) -> None:
    broker = re.search(r"^  broker +(\S+)$", banner, re.M)
    topic = re.search(r"kcat -C .* -t (\S+)", banner)
    assert broker is not None
    assert topic is not None
    command = [word.replace("note.write", "unknown.task") for word in publish_command(banner)]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=30, check=True)

    def letters() -> list[object]:
        return [dict(m.headers() or [])["kworker-reason"] for m in read_all(broker[1], topic[1])]

    wait_for(lambda: letters() == [b"unroutable"], 30, "the dead letter")
    assert {m.partition() for m in read_all(broker[1], topic[1])} <= set(range(PARTITIONS))


def test_a_broker_of_ones_own_is_not_an_option(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kworker", "dev", "--bootstrap", "127.0.0.1:9092"]
    said = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert said.returncode == 2
    assert "No such option" in said.stderr
