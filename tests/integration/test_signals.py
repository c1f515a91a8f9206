"""How a worker process ends, and what its signals do: exit codes 0 and 2 to 6, quiet, dump, second signals, ports."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from kit import Kafka, read_all, wait_for
from kit.broker import _free_ports
from kit.leash import leashed
from kit.stage import PLUGIN, Stage, metric, owned
from kit.worker_process import START, WorkerProcess

ENDS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def stage(tmp_path: Path, kafka: Kafka) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


def last_line(worker: WorkerProcess) -> str:
    return worker.logged().splitlines()[-1]


# -- 0: drained and committed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ENDS)
def test_an_idle_worker_ends_with_0_and_leaves_its_group(stage: Stage, number: int) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(10))
    worker = stage.start(topics=[topic], kafka={"session.timeout.ms": "300000"})
    stage.wait_noted("ran", range(10), worker)
    worker.signal(number)
    assert worker.wait() == 0
    assert stage.committed(topic) == {0: (10, "")}  # without waiting for the next tick
    again = stage.start(topics=[topic])
    stage.wait(lambda: owned(again), "the partition of the one that left, long before its session ends", again)


@pytest.mark.parametrize("number", ENDS)
def test_what_runs_may_finish_and_what_waits_goes_back(stage: Stage, number: int) -> None:
    topic = stage.topic()
    stage.publish(topic, "hold", [0])
    stage.publish(topic, "note", range(1, 11))
    worker = stage.start("--concurrency", "1", topics=[topic])
    stage.wait_noted("began", [0], worker)
    worker.signal(number)
    stage.wait(lambda: worker.get("/readyz")[0] == 503, "unreadiness", worker)
    assert "stopping" in worker.get("/readyz")[1]
    assert worker.get("/livez")[0] == 200
    stage.let_go()
    assert worker.wait() == 0
    assert stage.numbers("ran") == {0: 1}
    assert stage.committed(topic) == {0: (1, "")}
    again = stage.start(topics=[topic])
    stage.wait_all_committed(topic, again)
    assert stage.numbers("ran") == dict.fromkeys(range(11), 1)


def test_a_worker_that_has_not_joined_yet_ends_with_0(tmp_path: Path) -> None:
    with Stage(tmp_path, f"127.0.0.1:{_free_ports(1)[0]}") as stage:
        worker = stage.start()
        assert worker.get("/readyz")[0] == 503
        worker.terminate()
        assert worker.wait() == 0


# -- 2 and 5: it does not start -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--order", "sideways"], "kworker: --order: 'sideways' is none of"),
        (["-X", "enable.auto.commit=true"], "kworker: -X enable.auto.commit: true is refused"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_what_cannot_be_configured_ends_with_2(stage: Stage, arguments: list[str], expected: str) -> None:
    worker = stage.start(*arguments)
    assert worker.wait() == 2
    assert expected in worker.logged()
    assert "Traceback" not in worker.logged()


@pytest.fixture
def busy() -> Iterator[int]:
    """A port on which somebody else listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_an_admin_port_that_was_asked_for_and_is_busy_ends_with_2(stage: Stage, busy: int) -> None:
    worker = stage.start("--admin-port", str(busy))
    assert worker.wait() == 2
    assert f"port {busy}" in last_line(worker)
    assert "or port 0 for a free one" in last_line(worker)


def test_the_default_admin_port_gives_way_when_it_is_busy(stage: Stage) -> None:
    command = [sys.executable, "-m", "kworker", "--group", stage.group, "--bootstrap", stage.bootstrap]
    log = stage.folder / "log"
    with closing(socket.socket()) as holder, log.open("wb") as file:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody listens there: just as well
            holder.bind(("127.0.0.1", 9464))
            holder.listen()
        worker = subprocess.Popen(leashed(*command), cwd=stage.folder, stdout=file, stderr=file)
        try:
            ports = wait_for(lambda: re.findall(r"metrics=http://127.0.0.1:(\d+)/", log.read_text()), START, "its port")
            assert ports != ["9464"]
            assert "9464" in log.read_text()  # it says why it has another
            worker.terminate()
            assert worker.wait(START) == 0
        finally:
            worker.kill()


def install(site: Path, name: str, entry_point: str, code: str) -> Path:
    """A distribution `<name>-dist` with one module; returns the folder to put on the path."""
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[kworker.plugins]\n{name} = {entry_point}\n")
    (site / f"{name}_plugin.py").write_text(code)
    return site


def test_a_plugin_that_cannot_be_loaded_ends_with_5(stage: Stage, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "broken", "broken_plugin", "import no_such_module\n")
    worker = stage.start("--plugin", "broken", site=[PLUGIN, site])
    assert worker.wait() == 5
    for expected in ("broken", "broken-dist", "no_such_module"):
        assert expected in last_line(worker)


SOUR = """
from kworker import Plugin, task

class Sour(Plugin):
    @task("sour.work")
    def work(self): ...

    def setup(self, settings):
        raise SystemExit("no licence")
"""


def test_a_plugin_that_cannot_be_set_up_ends_with_5_before_the_group_is_joined(stage: Stage, tmp_path: Path) -> None:
    topic = stage.topic()
    site = install(tmp_path / "site", "sour", "sour_plugin:Sour", SOUR)
    worker = stage.start("--plugin", "sour", topics=[topic], site=[PLUGIN, site])
    assert worker.wait() == 5
    for expected in ("sour", "sour-dist", "no licence"):
        assert expected in last_line(worker)
    assert "assigned" not in worker.logged()
    assert stage.committed(topic) == {}


LAST = """
import time
from pathlib import Path
from kworker import Plugin, task

class Last(Plugin):
    @task("last.work")
    def work(self): ...

    def teardown(self):
        Path("leaving").touch()
        while not Path("leave").exists():
            time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [*ENDS, signal.SIGQUIT, signal.SIGUSR1])
def test_a_signal_during_the_last_steps_of_a_stop_does_not_cut_them_off(
    stage: Stage, tmp_path: Path, number: int
) -> None:
    topic = stage.topic()
    stage.publish(topic, "note", range(10))
    site = install(tmp_path / "site", "last", "last_plugin:Last", LAST)
    worker = stage.start("--plugin", "last", "--plugin", "probe", topics=[topic], site=[PLUGIN, site])
    stage.wait_noted("ran", range(10), worker)
    worker.terminate()
    stage.wait((worker.folder / "leaving").exists, "the teardown", worker)
    worker.signal(number)
    (worker.folder / "leave").touch()
    assert worker.wait() == 0
    assert stage.committed(topic) == {0: (10, "")}


def test_a_plugin_that_is_not_installed_ends_with_5(stage: Stage) -> None:
    worker = stage.start("--plugin", "nobody-wrote-it")
    assert worker.wait() == 5
    assert "nobody-wrote-it" in last_line(worker)


# -- 3: a client that cannot go on --------------------------------------------------------------------------------


def test_a_fatal_error_of_the_client_ends_with_3_and_its_tasks_run_elsewhere(stage: Stage) -> None:
    """The only one that an outsider can cause: a second static member of the same name fences the first."""
    topic = stage.topic()
    static = {"group.instance.id": "same"}
    first = stage.start(topics=[topic], kafka=static)
    stage.publish(topic, "hold", [0])
    stage.wait_noted("began", [0], first)
    second = stage.start(topics=[topic], kafka=static)
    assert first.wait() == 3
    stage.wait(lambda: stage.numbers("began")[0] == 2, "the second run", second)
    stage.let_go()
    stage.wait_all_committed(topic, second)


# -- 4: unfinished ------------------------------------------------------------------------------------------------


def hold(stage: Stage, *arguments: str) -> tuple[str, WorkerProcess]:
    """A worker with one task that does not end, and three finished ones behind it that are committed as such."""
    topic = stage.topic()
    worker = stage.start(*arguments, topics=[topic])
    stage.publish(topic, "hold", [0])
    stage.publish(topic, "note", range(1, 4))
    stage.wait_noted("began", [0], worker)
    stage.wait_noted("ran", range(1, 4), worker)
    stage.wait(lambda: stage.finished(topic) == [1, 4], "the finished offsets in the metadata", worker)
    return topic, worker


def run_again(stage: Stage, topic: str) -> None:
    """Another worker runs what was unfinished, and nothing else."""
    again = stage.start(topics=[topic])
    stage.wait(lambda: stage.numbers("began")[0] == 2, "the second run", again)
    stage.let_go()
    stage.wait_all_committed(topic, again)
    assert set(stage.numbers("ran").values()) == {1}


def test_a_stop_whose_deadline_passes_ends_with_4(stage: Stage) -> None:
    topic, worker = hold(stage, "--drain-timeout", "300ms")
    stage.publish(topic, "note", range(4, 8))
    stage.wait_noted("ran", range(4, 8), worker)
    worker.terminate()
    assert worker.wait() == 4
    assert "unfinished=1" in worker.logged()
    assert stage.finished(topic) == [1, 8]  # without waiting for the next tick
    run_again(stage, topic)


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGQUIT)],
    ids=["TERM TERM", "INT INT", "TERM QUIT"],
)
def test_a_second_signal_ends_a_drain_at_once_with_4(stage: Stage, numbers: tuple[int, int]) -> None:
    topic, worker = hold(stage, "--drain-timeout", "1h")
    first, second = numbers
    worker.signal(first)
    stage.wait(lambda: "stopping" in worker.get("/readyz")[1], "the drain", worker)
    worker.signal(second)
    assert worker.wait() == 4
    run_again(stage, topic)


def test_quit_ends_at_once_with_4(stage: Stage) -> None:
    topic, worker = hold(stage, "--drain-timeout", "1h")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 4
    run_again(stage, topic)


# -- 6: too much is lost ------------------------------------------------------------------------------------------


def test_too_many_hung_tasks_end_with_6(stage: Stage) -> None:
    topic = stage.topic()
    worker = stage.start("--lost-slots", "1", topics=[topic])
    stage.publish(topic, "hang", [0])
    stage.wait(lambda: metric(worker, "kworker_threads_lost_total") == 1, "a lost thread", worker)
    stage.publish(topic, "note", [1])
    stage.wait_noted("ran", [1], worker)  # one is not too many
    stage.publish(topic, "hang", [2])
    assert worker.wait() == 6
    assert "too many slots are lost" in worker.logged()
    assert stage.numbers("began") == {0: 1, 2: 1}
    assert stage.committed(topic)[0][0] >= 2
    letters = [dict(letter.headers() or []) for letter in read_all(stage.bootstrap, f"{topic}.dlq")]
    assert {letter["kworker-reason"] for letter in letters} == {b"timed-out"}


# -- signals that do not end it -------------------------------------------------------------------------------------


def test_quiet_takes_no_more_and_runs_what_is_there(stage: Stage) -> None:
    topic = stage.topic()
    worker = stage.start(topics=[topic])
    stage.publish(topic, "hold", [0])
    stage.wait_noted("began", [0], worker)
    worker.signal(signal.SIGUSR1)
    stage.wait(lambda: "quiet" in worker.logged(), "a line that says so", worker)
    quiet = time.time()  # a poll that had begun before may still bring what is published until it returns
    stage.wait(lambda: metric(worker, "kworker_last_poll_timestamp_seconds") > quiet, "the end of that poll", worker)
    stage.publish(topic, "note", range(1, 11))
    stage.let_go()
    stage.wait(lambda: stage.progress(topic) == {0: (1, [])}, "the commit of what ran", worker)
    assert stage.numbers("ran") == {0: 1}
    assert owned(worker) == {(topic, 0)}  # it keeps its place
    assert worker.get("/livez")[0] == 200
    worker.terminate()
    assert worker.wait() == 0
    again = stage.start(topics=[topic])
    stage.wait_all_committed(topic, again)
    assert stage.numbers("ran") == dict.fromkeys(range(11), 1)


def test_usr2_dumps_tasks_and_stacks_and_changes_nothing(stage: Stage) -> None:
    topic, worker = hold(stage)
    worker.signal(signal.SIGUSR2)
    stage.wait(lambda: "stack of MainThread" in worker.logged(), "the dump", worker)
    stage.wait(lambda: "stack of kworker-intake" in worker.logged(), "the dump", worker)
    (line,) = (line for line in worker.logged().splitlines() if " running " in line)
    for expected in ("task=probe.hold", f"topic={topic}", "partition=0", "offset=0", "attempt=1", "slot=thread-"):
        assert expected in line
    assert "in hold" in worker.logged()  # its stack
    stage.let_go()
    stage.wait_all_committed(topic, worker)
    worker.terminate()
    assert worker.wait() == 0
