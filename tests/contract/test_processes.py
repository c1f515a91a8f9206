"""The process executor under the executors' contract, and what is true of its kind only."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contract import process_tasks
from contract.executor_contract import DEADLINE, SHORT, ExecutorContract, World
from kit import wait_for
from kit.attempts import entry_of, partition, reported
from kworker.core.entry import Entry
from kworker.errors import PluginError
from kworker.executors.base import Executor, Runnable
from kworker.executors.children import Recycling
from kworker.executors.messages import Limits
from kworker.executors.processes import ProcessExecutor
from kworker.mailbox import Mailbox, Report
from kworker.plugin import ExecutorKind
from kworker.task import SUCCESS, Crashed, Failed, Outcome, Success, TimedOut


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestProcesses(ExecutorContract):
    kind: ExecutorKind = "process"

    def make(self, slots: int, runnables: dict[str, Runnable], mailbox: Mailbox) -> ProcessExecutor:
        return ProcessExecutor(slots, runnables, mailbox, process_tasks.load)

    def is_stopped(self, executor: Executor, busy: int) -> None:
        assert isinstance(executor, ProcessExecutor)
        wait_for(lambda: len(executor.children()) == busy, DEADLINE, f"{busy} children to be left")

    def test_a_hung_child_is_killed_and_no_slot_is_lost(self, world: World, slots: int) -> None:
        hung = world.submit("hold.short", slots)
        world.reported(hung)
        assert world.executor.lost == 0
        assert isinstance(world.executor, ProcessExecutor)
        assert world.executor.killed == {"timeout": slots}


class Bench:
    """The tasks of process_tasks in an executor of their own."""

    def __init__(self, slots: int = 2, fault: str = "", calls: str = "", **given: Any) -> None:
        self.mailbox = Mailbox()
        load = partial(process_tasks.load_wild, fault, calls)
        self.executor = ProcessExecutor(slots, process_tasks.load_wild().tasks, self.mailbox, load, **given)
        self.reports: list[Report] = []

    def run(self, task: str, *, entries: list[Entry] | None = None, **arguments: object) -> Outcome:
        """What one attempt comes to."""
        return self.outcomes([entry_of(task, json.dumps(arguments).encode())])[0]

    def outcomes(self, entries: list[Entry]) -> list[Outcome]:
        """What these come to, in their order."""
        self.executor.submit(entries)
        return self.wait(entries)

    def wait(self, entries: list[Entry]) -> list[Outcome]:
        deadline = time.monotonic() + DEADLINE
        wanted = set(map(id, entries))
        while len({id(report[0]) for report in self.reports if id(report[0]) in wanted}) < len(wanted):
            assert time.monotonic() < deadline, f"{len(self.reports)} reports; running: {self.executor.running()[:3]}"
            self.reports += reported(self.mailbox, 0.02)
            self.executor.watch(time.monotonic())
        found = {id(report[0]): report[2] for report in self.reports}
        assert len(found) == len(self.reports), "one was reported twice"
        return [found[id(entry)] for entry in entries]


MakeBench = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def bench(*given: Any, **named: Any) -> Bench:
        made.append(Bench(*given, **named))
        return made[-1]

    yield bench
    pids = [int(str(child["pid"])) for one in made for child in one.executor.children()]
    for one in made:
        one.executor.stop()
    for one in made:
        one.executor.close(0.5)
    wait_for(lambda: not any(map(alive, pids)), DEADLINE, f"the end of all of {pids}")


# -- a crash costs its own task -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("exit", {"code": 0}, "exited with code 0"),
        ("exit", {"code": 3}, "exited with code 3"),
        ("die", {"number": int(signal.SIGKILL)}, "SIGKILL (out of memory?)"),
        ("die", {"number": int(signal.SIGABRT)}, "SIGABRT"),
        ("segfault", {}, "SIGSEGV"),
        ("spoil", {"what": "files"}, "its process"),
        ("spoil", {"what": "nonsense"}, "said what it should not"),
    ],
)
def test_fault_11_a_task_that_ends_its_process_crashed_and_the_others_did_not(
    make: MakeBench, task: str, arguments: dict[str, object], said: str
) -> None:
    bench = make()
    before = [entry_of("nothing", b"{}") for _ in range(100)]
    assert bench.outcomes(before) == [SUCCESS] * 100
    entries = [entry_of("nothing", b'{"n": %d}' % n) for n in range(200)]
    entries[100:100] = [bad := entry_of(task, json.dumps(arguments).encode())]
    bench.outcomes(entries)
    (outcome,) = bench.wait([bad])
    assert isinstance(outcome, Crashed)
    assert outcome.error.type == "crash"
    assert said in outcome.error.message
    assert [outcome for outcome in bench.wait(entries) if outcome is not SUCCESS] == [outcome]


def test_fault_11_a_crash_among_small_tasks_blames_the_one_that_ran(make: MakeBench) -> None:
    """Those before it have ended, those behind it have not begun: none of them is blamed, doubled or lost."""
    bench = make(1)
    quick = [entry_of("nothing", b"{}") for _ in range(200)]
    bench.outcomes(quick)
    bench.executor._hearing.costs["exit"] = 1e-6  # as if its name had always been quick: it travels with others
    for round in range(20):
        entries = [entry_of("nothing", b"{}") for _ in range(60)]
        at = round * 3
        entries[at:at] = [entry_of("exit", b'{"code": 5}')]
        outcomes = bench.outcomes(entries)
        assert [type(outcome) for outcome in outcomes] == [Success] * at + [Crashed] + [Success] * (60 - at)
        bench.executor._hearing.costs["exit"] = 1e-6


class Quick(dict[str, float]):
    """What is known of how long tasks take, if every name had always been quick: all of them travel together."""

    def get(self, name: str, default: object = None) -> float:
        return 1e-6


def test_whatever_tasks_do_each_runs_once_and_is_told_what_it_did(make: MakeBench, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    ends: dict[str, type[Outcome]] = {
        "exit": Crashed,
        "kill": Crashed,
        "hang": TimedOut,
        "deaf": TimedOut,
        "raise": Failed,
        "print": Success,
        "return": Success,
    }
    chosen = random.Random(seed).choices(list(ends), [3, 3, 2, 1, 20, 20, 200], k=600)
    bench = make(3)
    bench.executor._hearing.costs = Quick()
    entries = [
        entry_of("mark.half", json.dumps({"folder": str(tmp_path), "n": n, "then": then}).encode())
        for n, then in enumerate(chosen)
    ]
    outcomes = bench.outcomes(entries)
    assert [type(outcome) for outcome in outcomes] == [ends[then] for then in chosen]
    assert sorted(map(int, (tmp_path / "marks").read_text().split())) == list(range(600))


def test_the_stack_of_a_segfault_is_kept_with_the_crash(make: MakeBench) -> None:
    outcome = make().run("segfault")
    assert isinstance(outcome, Crashed)
    assert "Segmentation fault" in outcome.error.stack
    assert "in segfault" in outcome.error.stack


def test_the_children_of_a_template_that_was_killed_crash_and_new_ones_come(make: MakeBench, tmp_path: Path) -> None:
    bench = make()
    entry = entry_of("wait", json.dumps({"folder": str(tmp_path), "name": "a"}).encode())
    bench.executor.submit([entry])
    wait_for((tmp_path / "a.began").exists, DEADLINE, "it to begin")
    assert bench.executor._nursery is not None
    os.kill(bench.executor._nursery.pid, signal.SIGKILL)
    assert isinstance(bench.wait([entry])[0], Crashed)
    assert bench.run("nothing") is SUCCESS


# -- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["hang_in_c.short", "hang_deaf.short", "spin.short"])
def test_fault_10_a_task_that_hangs_is_gone_and_its_neighbours_never_notice(make: MakeBench, task: str) -> None:
    bench = make()
    pids: set[int] = {bench.run("pid").result for _ in range(20)}  # type: ignore[union-attr, misc]  # a Success
    entries = [entry_of(task, b"{}"), *(entry_of("nothing", b"{}") for _ in range(100))]
    outcomes = bench.outcomes(entries)
    assert isinstance(outcomes[0], TimedOut)
    assert outcomes[0].error.type == "timeout"
    assert outcomes[1:] == [SUCCESS] * 100
    report = next(report for report in bench.reports if report[0] is entries[0])
    assert report[4] - report[3] < SHORT + 2.0  # generous: the machine is shared
    assert bench.executor.killed == {"timeout": 1}
    wait_for(lambda: sum(map(alive, pids)) < len(pids), DEADLINE, "the end of its process")
    if task.startswith("spin"):
        assert "in spin" in outcomes[0].error.stack


def hang(bench: Bench, folder: Path) -> tuple[float, float]:
    """Seconds from the deadline of a task that hangs in C code to the end of its process; and from there to two slots.

    The task itself notes when it began, and the clock is the same for all processes.
    """
    folder.mkdir()
    begun = [folder / f"{name}.began" for name in "ab"]
    hung = entry_of("hang_noted.short", json.dumps({"folder": str(folder)}).encode())
    others = [entry_of("nothing", b"{}") for _ in range(100)]
    bench.executor.submit([hung, *others])
    wait_for((folder / "hang").exists, DEADLINE, "it to begin")
    pid, began = (folder / "hang").read_text().split()
    wait_for(lambda: not alive(int(pid)), DEADLINE, "the end of its process")
    gone = time.monotonic()
    both = [entry_of("wait", json.dumps({"folder": str(folder), "name": name}).encode()) for name in "ab"]
    bench.executor.submit(both)
    wait_for(lambda: all(file.exists() for file in begun), DEADLINE, "a task in each slot")
    serves = time.monotonic()
    (folder / "all.end").touch()
    assert isinstance(bench.wait([hung])[0], TimedOut)
    assert bench.wait([*others, *both]) == [SUCCESS] * 100 + [Success("a"), Success("b")]
    ended = {id(report[0]): report[4] for report in bench.reports}
    assert max(ended[id(entry)] for entry in others) < float(began) + SHORT, "a neighbour waited for it"
    return gone - float(began) - SHORT, serves - gone


def test_fault_10_what_hangs_in_c_code_is_gone_half_a_second_after_its_deadline_and_its_slot_serves(
    make: MakeBench, tmp_path: Path
) -> None:
    """And its slot serves again within a second.

    One of three trials must hold: a machine that others use may take the processor away for so long at any moment. What
    is too slow by itself fails all three.
    """
    bench = make()
    bench.outcomes([entry_of("nothing", b"{}") for _ in range(200)])
    found = []
    for trial in range(3):
        found.append(hang(bench, tmp_path / f"{trial}"))
        if found[-1][0] <= 0.5 and found[-1][1] <= 1.0:
            break
    print(found)
    assert found[-1][0] <= 0.5
    assert found[-1][1] <= 1.0


def test_small_tasks_behind_one_that_hangs_go_to_another_child(make: MakeBench, tmp_path: Path) -> None:
    bench = make(2)
    bench.outcomes([entry_of("nothing", b"{}") for _ in range(200)])
    bench.executor._hearing.costs["wait"] = 1e-6  # as if its name had always been quick
    hung = entry_of("wait", json.dumps({"folder": str(tmp_path), "name": "a"}).encode())
    others = [entry_of("nothing", b"{}") for _ in range(60)]
    bench.executor.submit([*others[:20], hung, *others[20:]])
    assert bench.wait(others) == [SUCCESS] * 60
    assert [running.entry for running in bench.executor.running()] == [hung]
    (tmp_path / "a.end").touch()
    assert bench.wait([hung]) == [Success("a")]


def test_bad_input_32_a_killed_child_takes_its_process_group_along(make: MakeBench, tmp_path: Path) -> None:
    outcome = make().run("hang_with_family.half", folder=str(tmp_path))
    assert isinstance(outcome, TimedOut)
    family = int((tmp_path / "family").read_text())
    wait_for(lambda: not alive(family), DEADLINE, "the end of what the task had started")


# -- what the kernel limits ---------------------------------------------------------------------------------------


def test_bad_input_32_memory_beyond_the_limit_is_an_error_of_its_task(make: MakeBench) -> None:
    bench = make(1, limits=Limits(memory=1 << 30))
    outcome = bench.run("eat")
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "MemoryError"
    assert bench.run("nothing") is SUCCESS


def test_bad_input_32_processor_time_is_limited_for_each_task(make: MakeBench) -> None:
    outcome = make(1, limits=Limits(cpu=1)).run("spin")
    assert isinstance(outcome, Crashed)
    assert "SIGXCPU (its processor time was used up)" in outcome.error.message


def test_bad_input_32_open_files_are_limited(make: MakeBench) -> None:
    bench = make(1, limits=Limits(files=100))
    outcome = bench.run("open_files", count=200)
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "OSError"
    assert bench.run("open_files", count=20) == Success(20)


# -- recycling ----------------------------------------------------------------------------------------------------


def test_a_child_is_replaced_after_its_tasks(make: MakeBench, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    bench = make(1, recycling=Recycling(tasks=10), calls=str(calls))
    pids = [outcome.result for outcome in bench.outcomes([entry_of("pid", b"{}") for _ in range(200)])]  # type: ignore[union-attr]  # all are a Success
    assert len(set(pids)) > 2
    wait_for(lambda: calls.read_text().count("teardown") >= len(set(pids)) - 1, DEADLINE, "their teardown")
    noted = [line.split() for line in calls.read_text().splitlines()]
    assert [pid for call, pid in noted if call == "setup"][: len(set(pids))] == [
        str(pid) for pid in dict.fromkeys(pids)
    ]


def test_a_child_that_has_grown_is_replaced(make: MakeBench) -> None:
    bench = make(1, recycling=Recycling(memory=200 << 20))
    before = bench.run("pid")
    assert bench.run("keep", mib=300) is SUCCESS
    wait_for(lambda: bench.run("pid") != before, DEADLINE, "another process")


# -- what travels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["object", "lambda", "lock", "huge", "large", "surrogate", "mean"])
def test_bad_input_34_a_result_that_cannot_travel_arrives_as_text(make: MakeBench, what: str) -> None:
    bench = make(1)
    outcome = bench.run("give", what=what)
    assert isinstance(outcome, Success)
    assert isinstance(outcome.result, str)
    assert len(outcome.result) < 10_000
    assert bench.run("nothing") is SUCCESS
    assert bench.executor.started == 1


def test_a_result_arrives_as_what_json_could_hold_of_it(make: MakeBench) -> None:
    assert make().run("give", what="data") == Success([{"x": 1, "y": ["a"]}, {"b": 2.5}, None])


def test_errors_arrive_as_text(make: MakeBench) -> None:
    bench = make(1)
    outcome = bench.run("raise_unmakeable")
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "contract.process_tasks.TwoArguments"
    assert "raise TwoArguments(1, 2)" in outcome.error.stack
    outcome = bench.run("raise_surrogate")
    assert isinstance(outcome, Failed)
    assert outcome.error.message == "\\udcff"
    assert bench.executor.started == 1


def test_what_a_task_publishes_comes_with_its_success(make: MakeBench) -> None:
    (outcome,) = make().outcomes([entry_of("publish", b"", given_id="parent", topic="here")])
    assert isinstance(outcome, Success)
    first, second = outcome.publish
    assert (first.topic, first.value, dict(first.headers)["ce_id"]) == ("here", b'{"n":1}', b"parent/1")
    assert (second.key, second.value) == (b"k", b"raw")


def test_headers_that_are_no_text_do_not_stop_the_executor(make: MakeBench) -> None:
    bench = make(1)
    odd = entry_of("nothing", b"{}", headers=[("\udcff", b"x")], given_id="\udcfe")
    assert bench.outcomes([odd, entry_of("nothing", b"{}")]) == [SUCCESS, SUCCESS]


def test_a_large_payload_passes_the_pipe(make: MakeBench) -> None:
    bench = make(1)
    large = [entry_of("nothing", b"{}" + b" " * (3 << 20)) for _ in range(4)]
    assert bench.outcomes(large) == [SUCCESS] * 4


def test_an_async_function_runs_in_a_process_too(make: MakeBench) -> None:
    bench = make(1)
    assert isinstance(bench.run("wait_async", seconds=0.001), Success)
    outcome = bench.run("wait_async.short", seconds=60)
    assert isinstance(outcome, TimedOut)


# -- the log ------------------------------------------------------------------------------------------------------


def test_all_that_a_task_says_comes_with_its_id(
    make: MakeBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make(2)
    entry = entry_of("speak", json.dumps({"folder": str(tmp_path)}).encode(), given_id="the-id", attempt=3)
    assert bench.outcomes([entry]) == [SUCCESS]
    said = {record.message: record for record in caplog.records if record.message.startswith(("from", "without"))}
    assert said.keys() == {
        "from print",
        "from stderr",
        "from C",
        "from a subprocess",
        "from ctx.log",
        "from a logger of its own",
        "without an end",
    }
    for record in said.values():
        assert (record.task, record.id) == ("speak", "the-id")  # type: ignore[attr-defined]  # extra
    log = said["from ctx.log"]
    assert (log.name, log.levelno, log.attempt) == ("kworker.task.speak", logging.WARNING, 3)  # type: ignore[attr-defined]  # extra
    own = said["from a logger of its own"]
    assert (own.name, own.width) == ("own.logger", 3)  # type: ignore[attr-defined]  # extra


def test_each_of_many_small_tasks_has_its_own_lines(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = make(2)
    entries = [entry_of("murmur", b'{"n": %d}' % n, offset=n) for n in range(100)]
    assert bench.outcomes(entries) == [SUCCESS] * 100
    said = {record.message: record.id for record in caplog.records if record.message.startswith("number")}  # type: ignore[attr-defined]  # extra
    assert said == {f"number {entry.task.offset}": entry.task.id for entry in entries}


@pytest.mark.parametrize("kind", ["print", "log"])
def test_bad_input_34_a_flood_is_capped_and_blocks_nobody(
    make: MakeBench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make(2)
    flood = entry_of("flood", json.dumps({"kind": kind}).encode())
    assert bench.outcomes([flood, entry_of("nothing", b"{}")]) == [Success("done"), SUCCESS]
    lines = [record for record in caplog.records if getattr(record, "id", "") == flood.task.id]
    assert 1 <= len(lines) <= 1_002
    assert sum(len(record.message) for record in lines) < 1 << 17
    assert any("left out" in record.message for record in lines)


@pytest.mark.parametrize("what", ["streams", "sigterm", "fork", "logging"])
def test_bad_input_34_a_spoiled_process_still_reports(make: MakeBench, what: str) -> None:
    bench = make(1)
    assert bench.run("spoil", what=what) == Success(what)
    assert bench.run("nothing") is SUCCESS
    assert isinstance(bench.run("hang_deaf.short"), TimedOut)


def test_threads_that_log_do_not_mix_with_reports(make: MakeBench) -> None:
    bench = make(1)
    entries = [entry_of("threads_log", b'{"count": 5}') for _ in range(60)]
    assert bench.outcomes(entries) == [Success(5)] * 60
    assert bench.executor.killed == {}


# -- start and end ------------------------------------------------------------------------------------------------


def test_a_setup_that_fails_is_told_at_start(make: MakeBench) -> None:
    with pytest.raises(PluginError, match="in a child process: no licence"):
        make(1, fault="no licence").executor.start()


def test_a_child_that_dies_at_its_start_is_told_at_start(make: MakeBench) -> None:
    with pytest.raises(PluginError, match="exited with code 7 before it was ready"):
        make(1, fault="exit").executor.start()


def test_plugins_that_cannot_be_loaded_are_told_at_start() -> None:
    executor = ProcessExecutor(1, {}, Mailbox(), process_tasks.fail_to_load)
    with pytest.raises(PluginError, match="ImportError: no module named so"):
        executor.start()
    executor.stop()
    executor.close(0.5)


def test_start_has_the_children_ready_before_there_is_work(make: MakeBench, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    bench = make(2, calls=str(calls))
    bench.executor.start()
    wait_for(lambda: [child["ready"] for child in bench.executor.children()] == [True] * 2, DEADLINE, "both")
    assert calls.read_text().count("setup") == 2


def test_close_leaves_no_process_whatever_runs(make: MakeBench, tmp_path: Path) -> None:
    bench = make(2)
    bench.executor.start()
    deaf = entry_of("hang_with_family", json.dumps({"folder": str(tmp_path)}).encode())
    bench.executor.submit([deaf])
    wait_for((tmp_path / "family").exists, DEADLINE, "it to begin")
    assert bench.executor._nursery is not None
    pids = [bench.executor._nursery.pid, *(int(str(child["pid"])) for child in bench.executor.children())]
    family = wait_for(lambda: (tmp_path / "family").read_text(), DEADLINE, "the family")
    bench.executor.stop()
    bench.executor.close(0.2)
    wait_for(lambda: not any(map(alive, [*pids, int(family)])), DEADLINE, "the end of all")
    assert not bench.executor._thread or not bench.executor._thread.is_alive()


def test_a_cancelled_partition_kills_its_child_only(make: MakeBench, tmp_path: Path) -> None:
    bench = make(2)
    going = partition(0)
    arguments = [json.dumps({"folder": str(tmp_path), "name": name}).encode() for name in "ab"]
    gone = entry_of("hang_deaf", b"{}", of=going)
    stays = entry_of("wait", arguments[1])
    bench.executor.submit([gone, stays])
    wait_for(lambda: len(bench.executor.running()) == 2 and (tmp_path / "b.began").exists(), DEADLINE, "both")
    bench.executor.cancel([going])
    (outcome,) = bench.wait([gone])
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "cancelled"
    assert [running.entry for running in bench.executor.running()] == [stays]
    (tmp_path / "all.end").touch()
    assert bench.wait([stays]) == [Success("b")]
    assert bench.executor.killed == {"cancelled": 1}


def test_what_ends_the_thread_of_the_executor_ends_the_worker(make: MakeBench) -> None:
    bench = make(1)
    bench.executor.start()

    def fail() -> None:
        raise RuntimeError("a bug")

    bench.executor._command(fail)
    assert bench.executor._thread is not None
    bench.executor._thread.join(DEADLINE)
    with pytest.raises(RuntimeError, match="a bug"):
        bench.executor.watch(0.0)
