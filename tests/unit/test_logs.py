"""Logs: what a message brought cannot forge a line, and whoever logs is never held up."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from kit import wait_for
from kworker import logs
from kworker.errors import KworkerError

log = logging.getLogger("kworker.test")


class Pipe:
    """Logs go in, lines come out."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.stops: list[Callable[[], None]] = []

    def start(self, format: Literal["console", "json"] = "console", level: str = "info") -> None:
        self.stops.append(logs.start(format, level, self.into))

    def lines(self) -> list[str]:
        assert logs.flush(10)
        return self.read().splitlines()

    def read(self) -> str:
        return os.read(self.out, 1 << 20).decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for stop in made.stops:
        stop()
    for fd in (made.out, made.into):
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_console_lines_carry_the_extra_fields(pipe: Pipe) -> None:
    pipe.start()
    log.info("done in %d ms", 7, extra={"task": "thumb nail", "offset": 3, "said": 'a "b"', "nothing": None})
    (line,) = pipe.lines()
    assert line.endswith('info    done in 7 ms task="thumb nail" offset=3 said="a \\"b\\"" nothing=None')


# FAULTS.md, bad input 20: CR, LF and ESC of a header.
def test_what_a_message_brought_cannot_forge_or_colour_a_line(pipe: Pipe) -> None:
    pipe.start()
    evil = "x\r\n2026 info forged\x1b[2J\x00\x85\u2028\u202e"
    log.info("got %s", evil, extra={"id": evil})
    try:
        raise ValueError(evil)
    except ValueError:
        log.exception("failed")
    text = "\n".join(pipe.lines())
    assert not [
        char for char in text if char != "\n" and (ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or ord(char) > 0x2000)
    ]
    assert not [line for line in text.splitlines() if line.startswith("2026 info forged")]
    assert "    ValueError: x" in text


def test_json_lines_are_one_object_each(pipe: Pipe) -> None:
    pipe.start("json")
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("failed\nhere", extra={"task": "t", "offset": 3, "odd": {1, 2}})
    (line,) = pipe.lines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("ERROR", "kworker.test", "failed\nhere")
    assert (entry["task"], entry["offset"], entry["odd"]) == ("t", 3, "{1, 2}")
    assert entry["trace"].endswith("ValueError: a\nb")
    assert entry["timestamp"]


@pytest.mark.parametrize("format", ["console", "json"])
def test_objects_that_cannot_be_shown_cost_their_text_and_no_line(
    pipe: Pipe, format: Literal["console", "json"]
) -> None:
    pipe.start(format)
    log.info("args %s", Broken())
    log.info("extra", extra={"value": Broken()})
    log.info("%d", "wrong")
    lines = pipe.lines()
    assert len(lines) == 3
    assert "cannot be shown: RuntimeError" in lines[0]
    assert "cannot be shown: RuntimeError" in lines[1]
    assert "cannot be shown: TypeError" in lines[2]


def test_the_level_counts(pipe: Pipe) -> None:
    pipe.start(level="warning")
    log.info("not this")
    log.warning("this")
    assert len(pipe.lines()) == 1


# FAULTS.md, fault 34: standard error blocked.
def test_a_reader_that_stops_holds_nobody_up_and_the_loss_is_told(pipe: Pipe) -> None:
    pipe.start()
    filler = "x" * 200
    for _ in range(logs.QUEUE_LIMIT + 2_000):
        log.info(filler)
    lost = logs.dropped()
    assert 0 < lost <= 2_000
    assert not logs.flush(0.01)  # bounded, too
    text = ""

    def told() -> bool:
        nonlocal text
        text += pipe.read()
        # In one line or in several: the writer may have begun to tell while lines were still being dropped.
        return sum(map(int, re.findall(r"log lines were dropped dropped=(\d+)", text))) == lost

    wait_for(told, 30, "the line that tells how many were dropped")


def test_a_closed_pipe_ends_nothing(pipe: Pipe) -> None:
    pipe.start()
    os.close(pipe.out)
    log.info("into nothing")
    assert logs.flush(10)
    assert logs.dropped() == 1
    log.info("again")
    assert logs.flush(10)
    assert logs.dropped() == 2


def test_a_stop_gives_the_handlers_back_and_a_second_start_is_refused(pipe: Pipe) -> None:
    before = logging.getLogger().handlers
    pipe.start()
    with pytest.raises(KworkerError):
        logs.start()
    pipe.stops.pop()()
    assert logging.getLogger().handlers is before
    assert logs.flush()
    pipe.start()


def test_what_was_logged_before_the_stop_is_written(pipe: Pipe) -> None:
    pipe.start()
    for number in range(100):
        log.info("line %d", number)
    pipe.stops.pop()()
    assert len(pipe.read().splitlines()) == 100


def test_a_repeated_message_passes_once_in_a_while_and_says_how_often_it_came() -> None:
    now = 0.0
    passing = logs.Repeated(10, lambda: now)

    def record(text: str, *args: object) -> logging.LogRecord:
        return logging.LogRecord("kworker.kafka", logging.WARNING, "", 0, text, args, None)

    assert passing.filter(record("broker %s down", 1))
    assert not passing.filter(record("broker %s down", 2))
    assert not passing.filter(record("broker %s down", 3))
    assert passing.filter(record("another"))
    now = 10.0
    again = record("broker %s down", 4)
    assert passing.filter(again)
    assert vars(again)["repeated"] == 2
    now = 25.0
    fresh = record("broker %s down", 5)
    assert passing.filter(fresh)
    assert "repeated" not in vars(fresh)


def test_messages_that_never_repeat_do_not_fill_memory() -> None:
    passing = logs.Repeated(10, lambda: 0.0)
    for number in range(5_000):
        assert passing.filter(logging.LogRecord("k", logging.INFO, "", 0, f"text {number}", None, None))
    assert len(passing._seen) <= 1_001
