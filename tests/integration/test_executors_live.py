"""Threads, coroutines and child processes in real workers on a real Kafka: whatever a task does costs its own task."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit import Kafka, NewRecord, create_topic, produce, read_all, wait_for
from kit.records import all_done
from kit.stage import metric
from kit.worker_process import WorkerProcess, _environment

PLUGIN = Path(__file__).parents[1] / "kit" / "wild"
DEADLINE = 90.0
"""Seconds after which a fact that did not come is a failure: hundreds of crashes on a busy machine."""

BAD = {"wild.crash": "crashed", "wild.hang": "timed-out", "wild.fail": "exhausted", "wild.eat": "exhausted"}
"""Tasks that never succeed, and the reason of their dead letters."""


class Scene:
    """A topic, its workers, and what their tasks noted."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.name = f"wild-{uuid.uuid4().hex[:12]}"
        self.stack = ExitStack()
        self.workers = 0
        create_topic(bootstrap, self.name, 4)

    def start(self, *arguments: str, plugin: str = "wild") -> WorkerProcess:
        self.workers += 1
        given = ["--bootstrap", self.bootstrap, "--group", self.name, "--topic", self.name, "--plugin", plugin]
        folder = self.folder / f"worker-{self.workers}"
        worker = WorkerProcess(folder, *given, *arguments, env={"WILD": str(self.folder)}, site=[PLUGIN])
        self.stack.callback(worker.close)
        return worker

    def publish(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Records of (task, number)."""
        produce(
            self.bootstrap,
            self.name,
            [NewRecord(b'{"n": %d}' % n, None, (("ce_type", task.encode()),)) for task, n in tasks],
        )

    def noted(self, event: str) -> list[dict[str, Any]]:
        """What tasks noted of this event."""
        events = self.folder / "events"
        lines = events.read_text().splitlines() if events.exists() else []
        return [noted for line in lines if (noted := json.loads(line))["event"] == event]

    def wait(self, fact: Callable[[], object], what: str, worker: WorkerProcess) -> None:
        """Wait for a fact while this worker lives."""

        def holds() -> object:
            assert worker.exit_code is None, f"it ended with {worker.exit_code}: {worker.logged()[-3000:]}"
            return fact()

        try:
            wait_for(holds, DEADLINE, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{worker.logged()[-6000:]}") from None

    def is_done(self) -> bool:
        """Whether the group's offsets are at the end of every partition."""
        return all_done(self.bootstrap, self.name, self.name)

    def reasons(self) -> Counter[tuple[str, str]]:
        """(task, reason) of every dead letter."""
        found: Counter[tuple[str, str]] = Counter()
        for letter in read_all(self.bootstrap, f"{self.name}.dlq"):
            headers = dict(letter.headers() or ())
            task, reason = headers["ce_type"], headers["kworker-reason"]
            assert isinstance(task, bytes)
            assert isinstance(reason, bytes)
            found[task.decode(), reason.decode()] += 1
        return found

    def close(self) -> None:
        (self.folder / "end").touch()
        self.stack.close()


@pytest.fixture
def scene(tmp_path: Path, kafka: Kafka) -> Iterator[Scene]:
    made = Scene(tmp_path, kafka.bootstrap)
    yield made
    made.close()


def family(worker: WorkerProcess) -> list[psutil.Process]:
    """All processes below a worker."""
    return psutil.Process(worker.pid).children(recursive=True)


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether none of these lives any more."""
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def mixture(good: int, bad: int) -> list[tuple[str, int]]:
    """So many good tasks with so many of each bad kind among them."""
    tasks = [("wild.process", n) for n in range(good)]
    step = max(1, good // (bad * len(BAD)))
    for number in range(bad):
        for kind, task in enumerate(BAD):
            tasks.insert((number * len(BAD) + kind) * (step + 1), (task, 10_000 + number))
    return tasks


def test_three_executors_in_one_worker(scene: Scene) -> None:
    kinds = ("thread", "coroutine", "process")
    scene.publish((f"wild.{kinds[n % 3]}", n) for n in range(600))
    worker = scene.start("--processes", "2")
    scene.wait(scene.is_done, "all to be committed", worker)
    ran = scene.noted("ran")
    assert sorted(noted["n"] for noted in ran) == list(range(600))
    for noted in ran:
        assert (noted["pid"] == worker.pid) == (noted["task"] != "wild.process")
    assert len({noted["pid"] for noted in ran}) == 3
    assert {kind: slots["slots"] for kind, slots in worker.status()["slots"].items()} == {
        "thread": 64,
        "coroutine": 64,
        "process": 2,
    }
    assert metric(worker, "kworker_slots", executor="process") == 2
    assert metric(worker, "kworker_children_started_total") == 2
    assert {child["pid"] for child in worker.status()["children"]} <= {process.pid for process in family(worker)}
    assert scene.reasons() == {}
    processes = family(worker)
    worker.terminate()
    assert worker.wait() == 0
    wait_for(lambda: gone(processes), DEADLINE, "the end of every child")
    # In this process nothing of it runs, so it is not set up here.
    assert worker.pid not in map(int, (scene.folder / "setups").read_text().split())


def test_800_good_tasks_among_200_that_crash_hang_raise_and_eat_memory(scene: Scene) -> None:
    scene.publish(mixture(800, 50))
    worker = scene.start("--processes", "4", "--child-memory", "300MiB")
    scene.wait(scene.is_done, "all to be committed", worker)
    assert Counter(noted["n"] for noted in scene.noted("ran")) == Counter(range(800))
    assert scene.reasons() == dict.fromkeys(BAD.items(), 50)
    attempts = Counter((noted["task"], noted["n"]) for noted in scene.noted("began"))
    assert set(attempts.values()) == {2}
    assert len(attempts) == 200
    assert metric(worker, "kworker_children_killed_total", why="timeout") == 100
    assert metric(worker, "kworker_tasks_failed_total", error="crash") == 100
    processes = family(worker)
    worker.terminate()
    assert worker.wait() == 0
    wait_for(lambda: gone(processes), DEADLINE, "the end of every child")


@pytest.mark.parametrize(("good", "bad"), [(200, 12), pytest.param(800, 50, marks=pytest.mark.long)])
def test_a_stop_in_the_middle_of_all_that_loses_nothing(scene: Scene, good: int, bad: int) -> None:
    """Gone within the drain time and two seconds, whatever hangs, dies or eats memory then."""
    drain = 2.0
    scene.publish(mixture(good, bad))
    worker = scene.start("--processes", "4", "--child-memory", "300MiB", "--drain-timeout", f"{drain:g}s")
    scene.wait(lambda: len(scene.noted("ran")) > good / 4 and len(scene.noted("began")) > bad, "the middle", worker)
    processes = family(worker)
    worker.terminate()
    began = time.monotonic()
    assert worker.wait(drain + 2.0) in (0, 4)
    print(f"gone after {time.monotonic() - began:.2f} s")
    wait_for(lambda: gone(processes), 1.0, "the end of every child")
    assert {noted["n"] for noted in scene.noted("ran")} < set(range(good)), "it was not the middle"
    again = scene.start("--processes", "4", "--child-memory", "300MiB")
    scene.wait(scene.is_done, "all to be committed", again)
    assert {noted["n"] for noted in scene.noted("ran")} == set(range(good))
    assert scene.reasons() == dict.fromkeys(BAD.items(), bad)


def test_a_worker_killed_with_9_leaves_no_child(scene: Scene) -> None:
    """A second later there is none: neither those that hang in C code, nor the sentinel."""
    scene.publish([("wild.hang", 5), ("wild.hold", 1), ("wild.hold", 2)])  # the first of them in C code
    worker = scene.start("--processes", "3")
    scene.wait(lambda: len(scene.noted("began")) >= 3, "all to run", worker)
    processes = family(worker)
    assert len(processes) >= 4
    worker.kill9()
    wait_for(lambda: gone(processes), 1.0, "the end of every child")


def test_a_stop_does_not_wait_for_a_child_that_hangs(scene: Scene) -> None:
    scene.publish([("wild.hold", 1)])
    worker = scene.start("--processes", "1", "--drain-timeout", "300ms")
    scene.wait(lambda: scene.noted("began"), "it to run", worker)
    processes = family(worker)
    worker.terminate()
    assert worker.wait(20.0) == 4
    wait_for(lambda: gone(processes), 10.0, "the end of every child")


def test_fault_10_neighbours_of_a_task_that_hangs_never_notice(scene: Scene) -> None:
    worker = scene.start("--processes", "2")
    worker.wait_ready()
    scene.publish([("wild.hang", 5), *(("wild.process", n) for n in range(300))])
    scene.wait(scene.is_done, "all to be committed", worker)
    assert Counter(noted["n"] for noted in scene.noted("ran")) == Counter(range(300))
    assert {noted["attempt"] for noted in scene.noted("ran")} == {1}
    assert scene.reasons() == {("wild.hang", "timed-out"): 1}


def test_a_dump_shows_where_coroutines_and_children_are(scene: Scene) -> None:
    scene.publish([("wild.await", 1), ("wild.hold", 2)])
    worker = scene.start("--processes", "1")
    scene.wait(lambda: len(scene.noted("began")) == 2, "both to run", worker)
    worker.signal(signal.SIGUSR2)
    for place in ("in wait", "in hold"):
        scene.wait(lambda place=place: place in worker.logged(), place, worker)  # type: ignore[misc]  # its default


def test_a_plugin_that_cannot_be_set_up_in_a_child_ends_the_worker_with_5(scene: Scene) -> None:
    (scene.folder / "refuse").touch()
    worker = scene.start("--processes", "1")
    assert worker.wait() == 5
    assert "in a child process" in worker.logged()
    assert "there is no licence for this plugin" in worker.logged()


def test_a_worker_without_tasks_for_them_starts_no_child(scene: Scene) -> None:
    worker = scene.start(plugin="calm")
    worker.wait_ready()
    (sentinel,) = family(worker)  # which is no child that runs tasks: it ends the worker if that stalls
    assert "sentinel.py" in " ".join(sentinel.cmdline())
    assert worker.status()["slots"].keys() == {"thread"}
    assert worker.status()["children"] == []


def test_without_processes_their_tasks_are_listed_as_unavailable(scene: Scene) -> None:
    command = [sys.executable, "-m", "kworker", "plugins", "--plugin", "wild"]
    environment = _environment({"WILD": str(scene.folder)}, [PLUGIN])
    for processes, found in (("0", True), ("1", False)):
        answer = subprocess.run(
            command, env=environment | {"KWORKER_PROCESSES": processes}, capture_output=True, text=True, check=True
        )
        assert ("its executor, process, does not run in this worker" in answer.stdout) is found
