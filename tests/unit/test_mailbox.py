"""The mailbox: what its senders may rely on, and what the loop may."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import cast

import pytest

from kit import wait_for
from kworker.core.entry import Entry
from kworker.core.events import Finished, Quiet, Tick
from kworker.mailbox import Mailbox, Report
from kworker.task import SUCCESS

LONG = 60.0
"""A wait that no test sits out: something must end it."""


def report(number: int) -> Report:
    """The mailbox does not look into a report."""
    return (cast("Entry", None), number, SUCCESS, 0.0, 0.0)


def runs(event: object) -> list[int]:
    assert isinstance(event, Finished), event
    return [run for _, run, _, _, _ in event.reports]


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


class Taker:
    """A loop in a thread of its own, waiting `LONG` for something to come."""

    def __init__(self, box: Mailbox) -> None:
        self.taken: list[object] = []
        self._box = box
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        self.taken = list(self._box.take(LONG))

    def wakes_up(self) -> list[object]:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the loop was not woken"
        return self.taken


@pytest.fixture
def waiting(box: Mailbox) -> Iterator[Taker]:
    taker = Taker(box)
    wait_for(lambda: box._waiting, 10, "the loop to wait")
    yield taker
    box.post(Tick())  # whatever the test did: the thread ends


def test_nothing_came(box: Mailbox) -> None:
    assert box.take(0.01) == []


@pytest.mark.parametrize("timeout", [0.0, -1.0, -1e9])
def test_a_loop_that_is_late_does_not_wait(box: Mailbox, timeout: float) -> None:
    assert box.take(timeout) == []
    box.post(Quiet())
    box.report(report(1))
    taken = box.take(timeout)
    assert taken[0] == Quiet()
    assert runs(taken[1]) == [1]
    assert box.take(timeout) == []


def test_events_come_in_the_order_they_were_posted_and_reports_last_as_one(box: Mailbox) -> None:
    def command() -> None: ...

    before = time.time()
    box.report(report(1))
    box.post(Quiet())
    box.post(command)
    box.report(report(2))
    box.post(Tick())
    *events, finished = box.take(LONG)
    assert events == [Quiet(), command, Tick()]
    assert runs(finished) == [1, 2]
    assert isinstance(finished, Finished)
    assert before <= finished.at <= time.time()


def test_a_report_that_is_there_ends_the_wait_before_it_begins(box: Mailbox) -> None:
    box.report(report(7))
    (finished,) = box.take(LONG)
    assert runs(finished) == [7]


def test_a_report_wakes_the_loop(box: Mailbox, waiting: Taker) -> None:
    box.report(report(3))
    (finished,) = waiting.wakes_up()
    assert runs(finished) == [3]


def test_an_event_wakes_the_loop(box: Mailbox, waiting: Taker) -> None:
    box.post(Quiet())
    assert waiting.wakes_up() == [Quiet()]


def test_reports_to_a_busy_loop_cost_it_no_wake_ups(box: Mailbox, waiting: Taker) -> None:
    for number in range(1000):  # the first wakes; of the others only those that come before it looks again
        box.report(report(number))
    taken = [run for event in waiting.wakes_up() for run in runs(event)]
    while more := box.take(0):
        taken += runs(*more)
    assert taken == list(range(1000))
    for number in range(1000):  # nobody waits now
        box.report(report(number))
    assert box._events.empty()


def test_many_events_cannot_hold_reports_back(box: Mailbox) -> None:
    for _ in range(10_000):
        box.post(Tick())
    box.report(report(1))
    first = box.take(LONG)
    assert runs(first[-1]) == [1]
    assert len(first) < 100
    taken = len(first) - 1
    while more := box.take(0):
        taken += len(more)
    assert taken == 10_000


def test_a_wake_up_that_comes_too_late_is_no_event(box: Mailbox) -> None:
    box._waiting = True
    box.report(report(1))  # its sender saw the loop wait; the loop sees the report without being woken
    (finished,) = box.take(LONG)
    assert runs(finished) == [1]
    assert box.take(0.01) == []


def test_many_senders_nothing_is_lost_or_doubled_and_each_keeps_its_order(box: Mailbox) -> None:
    senders, each = 8, 2000
    go = threading.Event()

    def send(sender: int) -> None:
        go.wait()
        for number in range(each):
            box.report(report(sender * each + number))
            if number % 50 == 0:
                box.post(cast("Callable[[], None]", (sender, number)))

    threads = [threading.Thread(target=send, args=(sender,), daemon=True) for sender in range(senders)]
    for thread in threads:
        thread.start()
    go.set()
    reports: list[int] = []
    events: list[tuple[int, int]] = []
    deadline = time.monotonic() + LONG / 2  # a wake-up that is missed costs LONG
    while len(reports) < senders * each or len(events) < senders * each // 50:
        taken = box.take(LONG)
        assert time.monotonic() < deadline, f"with {senders * each - len(reports)} reports to come, the loop slept"
        for item in taken:
            if isinstance(item, Finished):
                reports += runs(item)
            else:
                events.append(cast("tuple[int, int]", item))
    for sender in range(senders):
        assert [run for run in reports if run // each == sender] == list(range(sender * each, (sender + 1) * each))
        assert [number for name, number in events if name == sender] == list(range(0, each, 50))
    assert box.take(0) == []


def test_one_sender_and_a_loop_that_goes_to_sleep_between_any_two_reports(box: Mailbox) -> None:
    """The race of the flag and the deque: a report between the loop's look and its wait must wake it."""
    answered = threading.Semaphore(0)

    def send() -> None:
        for number in range(3000):
            box.report(report(number))
            if not answered.acquire(timeout=LONG / 2):
                return

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for number in range(3000):
        taken = box.take(LONG)
        while taken == []:  # the wake-up of a report that was seen without it
            taken = box.take(LONG)
        assert sender.is_alive(), "a report did not wake the loop"
        assert runs(*taken) == [number]
        answered.release()


def test_a_signal_wakes_the_loop_of_the_main_thread(box: Mailbox) -> None:
    """Its callback runs inside `take`, wherever that is: posting takes no lock that the loop holds."""

    def post(number: int, frame: FrameType | None) -> None:
        box.post(Quiet())

    before = signal.signal(signal.SIGUSR1, post)

    def raise_it() -> None:
        wait_for(lambda: box._waiting, 10, "the loop to wait")
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        threading.Thread(target=raise_it, daemon=True).start()
        assert box.take(LONG) == [Quiet()]
    finally:
        signal.signal(signal.SIGUSR1, before)
