"""FAULTS.md "Bad input", the rows that are one record each: one worker is fed all of them, and one topic.

Each gets one dead letter, byte for byte with the reason and code of WIRE.md, or succeeds; the plugin sees nothing of
what is refused, and the worker lives and works on.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Message

from faults.bad_records import ID, MOST_BYTES, Bad, new, table
from faults.letters import headers_of, last
from faults.raw_headers import produce_raw
from faults.worker import PLUGIN, Calls, samples, wait_committed
from kit import Kafka, create_topic, produce, read_all
from kit.worker_process import WorkerProcess
from kworker.duration import MAXIMUM
from kworker.task import Reason

TABLE = table()
RAW = (b'{"name": "raw"}', b"raw", [(b"ce_type", b"greet"), (b"\xff\xfe", b"x")])
OURS = ["reason", "error-type", "error-message", "error-stack", "error-fingerprint", "attempts"]
OURS += ["first-seen", "failed-at", "origin", "group", "worker"]


@dataclass
class Fed:
    """What was found after the worker had been fed everything."""

    places: dict[int, str]
    letters: dict[str, list[Message]]
    calls: Counter[tuple[str, int, str]]
    log: str
    metrics: str
    topic: str


@pytest.fixture(scope="module")
def fed(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fed:
    """Everything of the table and one good record, published and worked off by one worker that is alive at the end."""
    topic = f"bad-input-{uuid.uuid4().hex[:8]}"
    latest = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    create_topic(kafka.bootstrap, topic, config={"max.message.bytes": str(MOST_BYTES), **latest})
    places = produce(kafka.bootstrap, topic, [bad.record for bad in TABLE])
    produce_raw(kafka.bootstrap, topic, *RAW)
    good = produce(kafka.bootstrap, topic, [new("greet", b'{"name": "good"}')])[0]
    folder = tmp_path_factory.mktemp("bad-input")
    calls = Calls(folder / "calls")
    worker = WorkerProcess(
        folder,
        "--group",
        topic,
        "--topic",
        topic,
        "--bootstrap",
        kafka.bootstrap,
        "--plugin",
        "faults",
        env={"FAULTS_CALLS": str(calls.path)},
        site=[PLUGIN],
    )
    try:
        wait_committed(worker, good[1] + 1, 60)
        metrics = worker.metrics()
        # It works on after all of it.
        produce(kafka.bootstrap, topic, [new("greet", b'{"name": "after"}')])
        wait_committed(worker, good[1] + 2)
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        worker.close()
    letters: dict[str, list[Message]] = {}
    for letter in read_all(kafka.bootstrap, f"{topic}.dlq"):
        letters.setdefault(last(letter, "kworker-origin"), []).append(letter)
    return Fed(
        {index: f"{topic}/{partition}/{offset}" for index, (partition, offset) in enumerate(places)},
        letters,
        Counter((task, attempt, repr(detail)) for task, attempt, detail in calls.read()),
        worker.logged(),
        metrics,
        topic,
    )


def _cases(row: int) -> pytest.MarkDecorator:
    chosen = [(index, bad) for index, bad in enumerate(TABLE) if bad.row == row]
    return pytest.mark.parametrize(("index", "bad"), chosen, ids=[re.sub(r"\W+", "-", bad.name) for _, bad in chosen])


def _hold(fed: Fed, index: int, bad: Bad) -> Message | None:
    """What holds for every row; returns the dead letter."""
    place = fed.places[index]
    for task, attempt, detail in bad.calls:
        assert fed.calls[task, attempt, repr(_at(place, detail))]
    letters = fed.letters.get(place, [])
    if not bad.reason:
        assert not letters
        return None
    assert len(letters) == 1
    letter, record = letters[0], bad.record
    assert (letter.key(), letter.value()) == (record.key, record.value)
    headers = headers_of(letter)
    assert headers[: len(record.headers)] == bad.headers
    ours = headers[len(record.headers) :]
    without = [] if bad.calls or bad.code == "timeout" else ["error-stack"]
    assert [name for name, _ in ours] == [f"kworker-{name}" for name in OURS if name not in without]
    assert last(letter, "kworker-reason") == bad.reason
    assert last(letter, "kworker-attempts") == str(bad.attempts)
    if bad.code:
        assert last(letter, "kworker-error-type") == bad.code
    assert all(len(value or b"") <= 8000 for _, value in ours)
    return letter


def _at(place: str, detail: Any) -> Any:
    if isinstance(detail, tuple):
        return tuple(_at(place, part) for part in detail)
    return place if detail == ID else detail


@_cases(1)
def test_bad_input_01_empty_or_null(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


def test_bad_input_02_random_bytes(fed: Fed) -> None:
    for index, bad in enumerate(TABLE):
        if bad.row == 2:
            _hold(fed, index, bad)


@_cases(3)
def test_bad_input_03_text_that_is_none(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(4)
def test_bad_input_04_depth(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(5)
def test_bad_input_05_nan_and_infinity(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(6)
def test_bad_input_06_duplicate_keys(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(7)
def test_bad_input_07_long_numbers(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(8)
def test_bad_input_08_bloat(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(9)
def test_bad_input_09_and_38_unknown_task_names(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(10)
def test_bad_input_10_wrong_arguments(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(15)
def test_bad_input_15_overflow(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(16)
def test_bad_input_16_compressed_payloads_are_not_inflated(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(19)
def test_bad_input_19_headers(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


def test_bad_input_19_a_header_name_that_is_not_utf8(fed: Fed) -> None:
    """The client cannot give the headers of such a record: they are lost, the record is not, and the place is named."""
    value, key, _ = RAW
    (letter,) = [letter for letters in fed.letters.values() for letter in letters if letter.key() == key]
    assert letter.value() == value
    assert (last(letter, "kworker-reason"), last(letter, "kworker-error-type")) == ("undecodable", "header_name")
    assert all(name.startswith("kworker-") for name, _ in headers_of(letter))
    assert last(letter, "kworker-origin") == f"{fed.topic}/0/{len(TABLE)}"


@_cases(20)
def test_bad_input_20_control_characters(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


def test_bad_input_20_logs_and_metrics_hold_none(fed: Fed) -> None:
    assert "FORGED" in fed.log
    assert not re.search("^[^\n]{0,30}FORGED", fed.log, re.M), "a line of the log was forged"
    for text in (fed.log, fed.metrics):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "FORGED" not in fed.metrics


@_cases(21)
def test_bad_input_21_forged_headers(fed: Fed, index: int, bad: Bad) -> None:
    letter = _hold(fed, index, bad)
    if letter is not None:  # the forged origin is still there, and ours after it
        assert last(letter, "kworker-origin") == fed.places[index]


@_cases(23)
def test_bad_input_23_record_times(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


def test_bad_input_23_ages_are_clamped(fed: Fed) -> None:
    waited = samples(fed.metrics, "kworker_task_wait_seconds_sum")['task="published"']
    assert 0 < waited <= MAXIMUM, "one is 56 years old, one is of the year 2100"


def test_bad_input_25_ids(fed: Fed) -> None:
    for index, bad in enumerate(TABLE):
        if bad.row == 25:
            _hold(fed, index, bad)
    assert fed.calls["greet", 1, repr(("one", "a", 1))] == 1000, "the same id is not de-duplicated"


@_cases(28)
def test_bad_input_28_exceptions(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(29)
def test_bad_input_29_exceptions_that_end_processes(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(31)
def test_bad_input_31_hanging(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


@_cases(33)
def test_bad_input_33_what_cannot_be_pickled(fed: Fed, index: int, bad: Bad) -> None:
    _hold(fed, index, bad)


def test_bad_input_nothing_else_was_called_or_set_aside(fed: Fed) -> None:
    places = fed.places.items()
    wanted = Counter(
        (task, attempt, repr(_at(place, detail)))
        for index, place in places
        for task, attempt, detail in TABLE[index].calls
    )
    good = {1: "good", 2: "after"}  # behind the raw one, which comes behind the table
    details = [(f"{fed.topic}/0/{len(TABLE) + more}", name, 1) for more, name in good.items()]
    assert fed.calls == wanted + Counter(("greet", 1, repr(detail)) for detail in details)
    refused = {place for index, place in places if TABLE[index].reason}
    assert fed.letters.keys() == refused | {f"{fed.topic}/0/{len(TABLE)}"}


def test_bad_input_the_metrics_count_it_by_reason(fed: Fed) -> None:
    wanted = Counter(bad.reason for bad in TABLE if bad.reason) + Counter(["undecodable"])
    found: Counter[str] = Counter()
    for labels, number in samples(fed.metrics, "kworker_tasks_dead_lettered_total").items():
        found[re.findall('reason="(.*?)"', labels)[0]] += int(number)
    assert +found == wanted
    assert set(found) <= set(Reason)
