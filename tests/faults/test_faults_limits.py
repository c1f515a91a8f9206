"""FAULTS.md "Faults" 34 and 35: nothing can be logged, no file opened, no memory had: never stuck, and nothing lost."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from faults.storm import Backlog
from kit import Broker, Kafka, NewRecord, produce, wait_for
from kit.broker import _free_ports
from kit.stage import metric
from kit.trial import Trial
from kit.worker_process import WorkerProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

PARTITIONS = 4
OUT_OF_FILES = "oo many open files"
NEVER_STUCK = 90.0
"""Seconds after which a worker that neither works nor has ended is stuck."""


# -- 34: where logs go ----------------------------------------------------------------------------------------------

Output = Callable[[ExitStack, Path], int]
"""Opens a file descriptor to log to."""


def full_disk(stack: ExitStack, folder: Path) -> int:
    """Every write fails for want of space."""
    return stack.enter_context(Path("/dev/full").open("wb", buffering=0)).fileno()


def full_file(stack: ExitStack, folder: Path) -> int:
    """Longer than any file of the process may be, see `LIMITED`."""
    log = stack.enter_context((folder / "full").open("ab", buffering=0))
    log.write(b"\n" * (4 << 20))
    return log.fileno()


def closed_pipe(stack: ExitStack, folder: Path) -> int:
    """Nobody will read it."""
    reader, writer = os.pipe()
    os.close(reader)
    stack.callback(os.close, writer)
    return writer


def blocked_pipe(stack: ExitStack, folder: Path) -> int:
    """Full to the brim; its reader lives, and never reads."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    os.set_blocking(writer, False)
    for piece in (b"x" * 4096, b"x"):
        while True:
            try:
                os.write(writer, piece)
            except BlockingIOError:
                break
    os.set_blocking(writer, True)
    return writer


LIMITED = ("sh", "-c", 'ulimit -f 2048 && exec "$@"', "sh")
"""Files have 2 MiB at most."""


@pytest.mark.parametrize(
    ("output", "under"),
    [(full_disk, ()), (full_file, LIMITED), (closed_pipe, ()), (blocked_pipe, ())],
    ids=["disk full", "ulimit -f", "log pipe closed", "stdout blocked"],
)
def test_fault_34_nothing_can_be_logged(kafka: Kafka, tmp_path: Path, output: Output, under: tuple[str, ...]) -> None:
    """Work goes on, what could not be logged is counted, and a stop is a stop."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial, ExitStack() as stack:
        backlog = Backlog(trial, 0, trouble=True)
        backlog.publish(1000)
        place = ("--admin-port", f"{_free_ports(1)[0]}", "--log-level", "debug")
        worker = trial.start(*place, output=output(stack, tmp_path), under=under)
        trial.finish()
        if output is not blocked_pipe:  # its lines are neither written nor dropped: they wait
            assert metric(worker, "kworker_log_lines_dropped_total") > 0
        worker.terminate()
        assert worker.wait() == 0
        assert trial.exposed == []


# -- 35: descriptors and memory ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One to restart."""
    with Broker() as broker:
        yield broker


def settles(trial: Trial, worker: WorkerProcess, within: float) -> bool:
    """Whether all is over, or the worker has ended, not with 0, before so many seconds have passed."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        trial.ledger.read()
        if worker.exit_code is not None or trial.ledger.over.keys() >= trial.ledger.places.keys():
            break
        time.sleep(0.1)
    print(f"exit code {worker.exit_code}, {len(trial.ledger.over)} over of {len(trial.ledger.places)}")
    assert worker.exit_code != 0
    return worker.exit_code is not None or trial.ledger.over.keys() >= trial.ledger.places.keys()


def says_ready(worker: WorkerProcess) -> bool:
    """Without a descriptor for the question it says nothing, and a probe fails."""
    try:
        return worker.ready()
    except OSError:
        return False


@pytest.mark.parametrize("files", [5, 8, 12, 16, 20, 24, 32])
def test_fault_35_started_with_few_descriptors(kafka: Kafka, tmp_path: Path, files: int) -> None:
    """It works; or ends with a code that is not 0, and says why; or is not ready, says why, and waits for more."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        Backlog(trial, 0, trouble=True).publish(200)
        worker = trial.start(under=("sh", "-c", f'ulimit -S -n {files} && exec "$@"', "sh"))
        if not settles(trial, worker, 20.0):
            assert OUT_OF_FILES in worker.logged()
            assert not says_ready(worker)
        if worker.exit_code is None:  # what it could not do yet, dead letters say, it can do now
            _, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (min(256, hard), hard))
        else:
            assert OUT_OF_FILES in worker.logged()
            trial.start()
        trial.finish()


def test_fault_35_out_of_descriptors(broker: Broker, tmp_path: Path) -> None:
    """No descriptor is to be had when the broker comes back: the worker waits for one, or ends, and nothing is lost."""
    with Trial(tmp_path, broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        backlog.fill()
        worker = trial.start("-X", "session.timeout.ms=20000")
        trial.wait_over(300)
        with closing(AllTaken(worker)):
            before = trial.commits.now()
            broker.restart()
            wait_for(lambda: OUT_OF_FILES in worker.logged() or worker.exit_code, NEVER_STUCK, "the fault")
            trial.expose(before, worker)
        backlog.fill()
        assert settles(trial, worker, NEVER_STUCK)
        if worker.exit_code is not None:
            trial.expose(before, worker)
            trial.start()
        trial.finish()


class AllTaken:
    """Takes every descriptor that a running process may still have, until it is closed."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._pid = worker.pid
        used = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{worker.pid}/fd").iterdir()}
        limit = next(number for number in range(1024) if used.get(number, "socket").startswith("socket"))
        self._limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        # What is open above the limit stays until it is closed; what is below it are no connections, and stay, too.
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (limit, self._limits[1]))

    def close(self) -> None:
        """Give them back."""
        if Path(f"/proc/{self._pid}").exists():
            resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._limits)


@pytest.mark.parametrize("mib", [40, 80])
def test_fault_35_started_with_little_memory(kafka: Kafka, tmp_path: Path, mib: int) -> None:
    """Too little to start: it ends, not with 0, and says why."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        Backlog(trial, 0).publish(100)
        worker = trial.start(under=("sh", "-c", f'ulimit -v {mib << 10} && exec "$@"', "sh"))
        assert worker.wait() != 0
        assert "emory" in worker.logged()


@pytest.mark.parametrize("mib", [480, 560, 640, 720, 800, 1100])
def test_fault_35_started_with_less_address_space_than_threads_take(kafka: Kafka, tmp_path: Path, mib: int) -> None:
    """A Kafka client that is made with too little may hang and hold the GIL: the worker ends before, and says why."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        worker = trial.start(under=("sh", "-c", f'ulimit -v {mib << 10} && exec "$@"', "sh"))
        assert worker.wait() == 2
        assert f"(ulimit -v) is {mib:,} MiB" in worker.logged()


@pytest.mark.parametrize("room", [0, 8 << 20, 64 << 20], ids=["nothing", "8 MiB", "64 MiB"])
def test_fault_35_out_of_memory(kafka: Kafka, tmp_path: Path, room: int) -> None:
    """A worker that may not grow is given 90 MB to read: it makes do, or ends, not with 0; and nothing is lost."""
    with Trial(tmp_path, kafka.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 0, trouble=True)
        backlog.publish(300)
        worker = trial.start()
        trial.wait_over(300)
        before = worker.resident("VmSize")
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (before + room, before + room))
        big = NewRecord(b'{"n": 1}' + b" " * 900_000, None, (("task", b"ledger.small"),))
        for _ in range(10):
            produce(kafka.bootstrap, trial.topic, [big] * 10)
            backlog.publish(50)
        assert settles(trial, worker, NEVER_STUCK), worker.logged()[-3000:]
        if worker.exit_code is None:
            grown = worker.resident("VmSize") - before
            print(f"it grew by {grown >> 20} MiB, to {worker.resident() >> 20} MiB resident")
            assert grown <= room
        else:
            print(worker.logged()[-1500:])
            trial.expose(trial.commits.now(), worker)
            trial.start()
        trial.finish()
