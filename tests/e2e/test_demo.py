"""`make demo`: it loses nothing, says so, and leaves nothing behind, also when it is interrupted."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kit import wait_for
from kit.leash import leashed

ROOT = Path(__file__).parents[2]
COMMAND = leashed(sys.executable, str(ROOT / "demo" / "demo.py"))
ROWS = ("published", "succeeded", "retried", "dead-lettered", "run twice", "lost")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where the demo puts its files, which must be empty in the end; a setting that must not reach its workers."""
    yield os.environ | {"TMPDIR": str(tmp_path), "KWORKER_BOOTSTRAP": "127.0.0.1:1"}
    assert list(tmp_path.iterdir()) == []


def workers(said: str) -> list[int]:
    """The process ids of the workers that it named."""
    return [int(pid) for pid in re.findall(r"\(pid ([0-9]+)\)", said)]


@pytest.mark.timeout(300)
def test_thousands_of_tasks_two_workers_one_kill_nothing_lost(environment: dict[str, str]) -> None:
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {name: re.search(rf"^  {name} +([0-9,]+)", done.stdout, re.M) for name in ROWS}
    assert None not in rows.values(), done.stdout
    published, succeeded, retried, dead, twice, lost = (int(row[1].replace(",", "")) for row in rows.values() if row)
    assert published == succeeded + dead > 3_000
    assert lost == 0
    assert retried > 0
    assert 0 < twice < published / 2
    for reason in ("undecodable", "unroutable", "invalid", "rejected", "exhausted"):
        assert re.search(rf"dead-lettered .*\b{reason} [1-9]", done.stdout)
    assert "NOTHING IS KEPT" in done.stdout
    assert "WRONG" not in done.stdout
    assert "\r" not in done.stdout
    assert len(set(workers(done.stdout))) == 3
    assert not any(psutil.pid_exists(pid) for pid in workers(done.stdout))


@pytest.mark.timeout(120)
def test_kill_9_ends_its_workers_as_well(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        demo = subprocess.Popen(COMMAND, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=output)
    try:
        wait_for(lambda: len(workers(said.read_text())) >= 2 or demo.poll() is not None, 60, "two workers")
        found = [psutil.Process(pid) for pid in workers(said.read_text())]
        assert len(found) == 2
    finally:
        demo.kill()
        demo.wait()
    wait_for(lambda: not any(process.is_running() for process in found), 30, "the end of its workers")


@pytest.mark.timeout(300)
def test_ctrl_c_ends_it_and_all_it_started(environment: dict[str, str], tmp_path: Path) -> None:
    """On a terminal of its own, where Ctrl-C is typed when both workers run."""
    terminal, inside = pty.openpty()
    said = bytearray()

    def reads_live_line() -> bool:
        said.extend(os.read(terminal, 65536))
        return b"\r\x1b[K" in said

    with subprocess.Popen(
        COMMAND, env=environment, stdin=inside, stdout=inside, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            wait_for(reads_live_line, 60, "both workers and the live line")
            assert len(workers(said.decode())) == 2
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            os.close(inside)
            os.close(terminal)
    assert not any(psutil.pid_exists(pid) for pid in workers(said.decode()))
