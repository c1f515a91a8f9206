"""Before the group is joined: plugins that take long to be imported or set up, and signals meanwhile."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kit import Kafka
from kit.stage import PLUGIN, Stage
from kit.worker_process import WorkerProcess

SLOW = """
import time
from pathlib import Path
from kworker import Plugin, task

def wait(what):
    Path(what).touch()
    while not Path("go").exists():
        {wait}

class Slow(Plugin):
    @task("slow.work")
    def work(self): ...

    def setup(self, settings):
        wait("setting-up")

    def teardown(self):
        Path("torn-down").touch()

{last}
"""
SLEEP = "time.sleep(0.01)"
STUBBORN = """
        try:
            time.sleep(0.01)
        except BaseException:
            pass
"""


@pytest.fixture
def stage(kafka: Kafka, tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


def start(stage: Stage, tmp_path: Path, *arguments: str, wait: str = SLEEP, last: str = "") -> WorkerProcess:
    """A worker with the slow plugin."""
    site = tmp_path / "site"
    info = site / "slow-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kworker.plugins]\nslow = slow_plugin:Slow\n")
    (site / "slow_plugin.py").write_text(SLOW.format(wait=wait, last=last))
    return stage.start("--plugin", "probe", "--plugin", "slow", *arguments, topics=[stage.topic()], site=[PLUGIN, site])


def wait_until(stage: Stage, worker: WorkerProcess, what: str) -> None:
    stage.wait((worker.folder / what).exists, what, worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_during_setup_ends_with_0(stage: Stage, tmp_path: Path, number: int) -> None:
    worker = start(stage, tmp_path)
    wait_until(stage, worker, "setting-up")
    worker.signal(number)
    assert worker.wait(10) == 0
    assert "nothing was taken" in worker.logged()
    assert "assigned" not in worker.logged()


def test_a_signal_while_a_plugin_is_imported_ends_with_0(stage: Stage, tmp_path: Path) -> None:
    worker = start(stage, tmp_path, last='wait("importing")')
    wait_until(stage, worker, "importing")
    worker.terminate()
    assert worker.wait(10) == 0
    assert "nothing was taken" in worker.logged()


def test_a_setup_that_does_not_let_itself_be_interrupted_is_left_behind(stage: Stage, tmp_path: Path) -> None:
    worker = start(stage, tmp_path, wait=STUBBORN)
    wait_until(stage, worker, "setting-up")
    worker.terminate()
    assert worker.wait(15) == 0
    assert 'left behind: setup of plugin "slow" (slow-dist 1)' in worker.logged()


@pytest.mark.parametrize(("last", "step"), [("", "setup of {}"), ('wait("importing")', "{} is being imported")])
def test_what_takes_too_long_ends_with_5_and_is_named_with_its_stack(
    stage: Stage, tmp_path: Path, last: str, step: str
) -> None:
    worker = start(stage, tmp_path, "--setup-timeout", "2s", last=last)
    assert worker.wait() == 5
    logged = worker.logged()
    assert "it takes too long, the limit is 2 s (--setup-timeout): " in logged
    assert step.format('plugin "slow" (slow-dist 1)') in logged
    assert "slow_plugin.py" in logged
    assert "in wait" in logged


def test_quiet_during_setup_holds_from_the_start_and_stacks_are_told(stage: Stage, tmp_path: Path) -> None:
    worker = start(stage, tmp_path)
    wait_until(stage, worker, "setting-up")
    worker.signal(signal.SIGUSR1)
    worker.signal(signal.SIGUSR2)
    stage.wait(lambda: "stack of MainThread" in worker.logged(), "stacks", worker)
    assert worker.get("/livez")[0] == 200
    assert worker.get("/readyz")[0] == 503
    (worker.folder / "go").touch()
    stage.wait(lambda: " quiet: " in worker.logged(), "quiet", worker)
    worker.terminate()
    assert worker.wait() == 0
    assert (worker.folder / "torn-down").exists()


def test_systemd_is_told_of_a_worker_from_ready_to_stopping(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        worker = stage.start(topics=[stage.topic()])
        told: list[str] = []
        while told.count("WATCHDOG=1") < 3 or "READY=1" not in told:
            told.append(systemd.recv(1000).decode())
        assert "STATUS=group " + stage.group + ": 1 partitions, 0 tasks in flight" in told
        worker.freeze()  # a loop that does not run says nothing
        systemd.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                systemd.recv(1000)  # what it had said
        assert not select.select([systemd], [], [], 1.0)[0]
        worker.thaw()
        systemd.settimeout(30)
        worker.terminate()
        while systemd.recv(1000) != b"STOPPING=1":
            continue
        assert worker.wait() == 0
