"""What keeps processes running, without any: restarts, silence, the line between them, merged numbers, systemd."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kworker.bulletin import Bulletin, Snapshot
from kworker.config import Config
from kworker.executors.threads import ThreadExecutor
from kworker.health import Liveness
from kworker.mailbox import Mailbox
from kworker.metric_table import METRICS
from kworker.metrics import Metrics, lasting, merge, page
from kworker.preparation import Preparation
from kworker.process.notify import Notifier
from kworker.process.sentinel import LOOKS, Silence
from kworker.supervisor.line import Line
from kworker.supervisor.member import Known, Member
from kworker.supervisor.pages import Pages
from kworker.supervisor.restarts import LONG, Restarts, worst

# -- restarts -----------------------------------------------------------------------------------------------------


def test_waits_grow_up_to_a_limit_and_begin_anew_after_a_long_life() -> None:
    restarts = Restarts()
    waits = [restarts.wait(1, 0.1) for _ in range(9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.wait(137, LONG) == 0.5
    assert restarts.wait(137, 0.1) == 1


@pytest.mark.parametrize("code", [2, 5])
def test_what_is_misconfigured_is_not_started_again(code: int) -> None:
    assert Restarts().wait(code, 1e6) is None


def test_a_fatal_error_of_kafka_is_not_tried_for_ever() -> None:
    restarts = Restarts()
    assert [restarts.wait(3, 1.0) for _ in range(5)] == [0.5, 1, 2, 4, None]
    restarts = Restarts()
    assert None not in [restarts.wait(3, LONG) for _ in range(20)]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0, 0], 0), ([0, 4, 0], 4), ([4, 6], 6), ([6, 3, 4], 3), ([4, 1], 1), ([1, 137], 137), ([0, 143], 143)],
)
def test_of_several_codes_the_worst_counts(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected


# -- silence ------------------------------------------------------------------------------------------------------


def test_silence_is_looks_in_a_row_and_none_at_a_frozen_process() -> None:
    silence = Silence()
    assert not any(silence.look(frozen=False) for _ in range(LOOKS - 1))
    silence.heard()
    assert not any(silence.look(frozen=False) for _ in range(LOOKS - 1))
    assert not any(silence.look(frozen=True) for _ in range(10 * LOOKS))
    assert [silence.look(frozen=False) for _ in range(LOOKS)] == [False] * (LOOKS - 1) + [True]


def test_a_process_that_was_frozen_gets_its_whole_limit_again() -> None:
    liveness = Liveness()
    liveness.expect("loop", 30, 0.0)
    assert liveness.stale(40.0)
    liveness.renew(40.0)
    assert liveness.stale(69.0) == []
    assert liveness.stale(71.0)


# -- the line -----------------------------------------------------------------------------------------------------


def test_frames_come_whole_and_in_order_whatever_the_socket_does_to_them() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    one, other = map(Line, socket.socketpair())
    sent = [chance.randbytes(chance.choice([1, 7, 1000, 300_000])) for _ in range(60)]
    got: list[bytes] = []
    for frame in sent:
        one.send(frame)
        if chance.random() < 0.5:
            got += other.receive()
    while len(got) < len(sent):
        one.send()
        got += other.receive()
    assert got == sent
    assert one.idle
    one.socket.close()
    assert other.receive() == []
    assert other.gone
    other.send(b"nobody hears it")
    assert other.gone


# -- numbers ------------------------------------------------------------------------------------------------------


def numbers(seed: int) -> Metrics:
    """The numbers of one process, of every kind."""
    chance = random.Random(seed)
    metrics = Metrics(["mail"], ["tasks"])
    for spec in METRICS.values():
        labels = {"task": "mail", "topic": "tasks", "partition": "0", "executor": "thread"}
        series = tuple(labels.get(label, "x") for label in spec.labels)
        if spec.kind == "gauge":
            metrics.gauge(spec.name, partial(dict, {series: chance.randrange(99)}))
        elif spec.kind == "histogram":
            metrics.histogram(spec.name, *series).observe_many(chance.random() * 100 for _ in range(20))
        elif not spec.labels:
            metrics.count(spec.name, n=chance.randrange(99))
    return metrics


def shown(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """A page, read by prometheus_client's own parser."""
    families = parse_text(page(snapshot, "")[0].decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def test_the_numbers_of_several_processes_become_those_of_one_by_the_rule_of_each() -> None:
    snapshots = [numbers(seed).snapshot() for seed in (1, 2, 3)]
    merged, parts = shown(merge(snapshots)), [shown(snapshot) for snapshot in snapshots]
    rules: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min, "last": lambda v: v[-1]}
    assert len(merged) == len(parts[0])
    for (name, labels), value in merged.items():
        if name.startswith("kworker_"):
            spec = METRICS.get(name) or METRICS[name.rsplit("_", 1)[0]]
            values = [part[name, labels] for part in parts]
            assert value == pytest.approx(rules[spec.merge](values)), name
    assert merged["process_resident_memory_bytes", frozenset()] > parts[0]["process_resident_memory_bytes", frozenset()]


def test_what_ended_processes_counted_lasts_and_their_gauges_do_not() -> None:
    kept = lasting(numbers(4).snapshot())
    kinds = {METRICS[name].kind for name in kept if name in METRICS}
    assert kinds == {"counter", "histogram"}
    assert "process_cpu_seconds_total" in kept
    assert "process_resident_memory_bytes" not in kept


def test_one_ready_worker_is_enough_and_the_others_are_named() -> None:
    members = [Member(number, Config(), 30.0) for number in range(2)]
    pages = Pages(Config(), members, 30.0)
    (found,) = pages.ready().items()
    assert found[1].startswith("0 of 2 workers are ready, not worker 0 (not started)")
    members[1].process = object()  # type: ignore[assignment]  # one that runs
    members[1].known = Known({}, Bulletin([]))
    assert pages.ready() == {"1 of 2 workers are ready, not worker 0 (not started)": ""}
    pages.stopping = True
    assert pages.ready() == {"stopping": "stopping"}


# -- systemd ------------------------------------------------------------------------------------------------------


@pytest.fixture
def systemd(tmp_path: Path) -> socket.socket:
    """Where it listens."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.setblocking(False)
    return listener


def told(systemd: socket.socket) -> list[str]:
    """What it heard since."""
    found = []
    try:
        while True:
            found.append(systemd.recv(1000).decode())
    except BlockingIOError:
        return found


def test_systemd_hears_each_thing_once_and_beats_at_half_of_what_it_allows(systemd: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "20000000", "HOME": "/"}
    notifier = Notifier(environ)
    assert environ == {"HOME": "/"}  # no child speaks for this process
    assert notifier.interval == 10
    for _ in range(2):
        notifier.ready()
        notifier.status("two partitions")
    for now in (100.0, 109.9, 110.0, 119.0):
        notifier.beat(now, lambda: True)
    notifier.beat(130.0, lambda: False)
    notifier.beat(131.0, lambda: True)
    notifier.stopping()
    beats = ["WATCHDOG=1"] * 3
    assert told(systemd) == ["READY=1", "STATUS=two partitions", *beats, "STOPPING=1"]


@pytest.mark.parametrize("extra", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_systemd_that_asks_for_no_beats_gets_none(systemd: socket.socket, extra: dict[str, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname(), **extra})
    assert notifier.interval is None
    notifier.beat(100.0, lambda: True)
    assert told(systemd) == []


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        notifier = Notifier(environ)
        notifier.ready()
        notifier.stopping()


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # any abstract name
        name = listener.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}).ready()
        assert listener.recv(100) == b"READY=1"


# -- the time before ----------------------------------------------------------------------------------------------


def test_what_takes_long_is_told_after_ten_seconds_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    preparation = Preparation(1000.0)
    preparation.begin('setup of plugin "a"')
    for _ in range(9):
        preparation.look(1.0)
    preparation.begin('setup of plugin "b"')
    for _ in range(100):
        preparation.look(1.0)
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in lines] == ['it takes long: setup of plugin "b"'] * 2
    assert [vars(record)["seconds"] for record in lines] == [11.0, 71.0]
    assert "test_what_takes_long" in vars(lines[0])["stack"]


# -- threads ------------------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started_costs_no_slot_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    executor = ThreadExecutor(2, {}, Mailbox(), lambda *a, **k: None)  # type: ignore[arg-type]  # runs nothing
    real = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    executor._queue.put(None)  # something to do: it ends the slot that takes it
    executor.watch(100.0)
    executor.watch(100.1)
    assert executor.moved(float("inf")) < float("inf")  # its heartbeat stands still
    assert executor._slots == []
    assert [record.getMessage() for record in caplog.records].count(caplog.records[0].getMessage()) == 1
    monkeypatch.setattr(threading.Thread, "start", real)
    executor.watch(100.2)
    assert executor.moved(float("inf")) == float("inf")
    assert len(executor._slots) == 1
