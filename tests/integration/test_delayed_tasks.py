"""Delayed tasks as their users meet them: published from Python, the command line and any client; cancelled, moved,
listed; run when they are due; and the topic they wait in."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # public, not re-exported

from kit import Kafka, NewRecord, create_topic, produce, read_all
from kit.delays import Delays, held_by
from kit.stage import Stage
from kit.worker_process import WorkerProcess
from kworker import AsyncClient, Client, DelayError, cli
from kworker.client import Message
from kworker.core.delayed import log_of
from kworker.kafka.delaylog import WANTED


class Delayed:
    """A stage whose workers have a namespace of their own, and read one topic."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.bootstrap = stage.bootstrap
        self.namespace = f"later-{uuid.uuid4().hex[:10]}"
        self.log = log_of(self.namespace)
        self.topic = stage.topic(2)

    def worker(self, *arguments: str) -> WorkerProcess:
        return self.stage.start("--namespace", self.namespace, *arguments, topics=[self.topic])

    def client(self) -> Client:
        return Client(self.bootstrap, topic=self.topic, namespace=self.namespace)

    def wait_held(self, worker: WorkerProcess) -> None:
        self.stage.wait(lambda: held_by(worker) == 4, "the partitions of the delay log are held", worker)


@pytest.fixture
def later(kafka: Kafka, tmp_path: Path) -> Iterator[Delayed]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield Delayed(stage)


@pytest.fixture
def run(later: Delayed, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(later, capsys)


class Run:
    """Runs a command of `kworker`: (exit code, standard output, standard error)."""

    def __init__(self, later: Delayed, capsys: pytest.CaptureFixture[str]) -> None:
        self._place = ("--bootstrap", later.bootstrap, "--namespace", later.namespace)
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main([*arguments, *self._place])
        said = self._capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, said.out, said.err


def test_a_task_runs_when_it_is_due_and_not_before(later: Delayed) -> None:
    """The first delayed task makes the delay log, and a worker that runs already begins to keep time."""
    worker = later.worker()
    worker.wait_ready()
    with later.client() as client:
        before = time.time()
        put = client.publish("probe.note", {"n": 1}, delay="4s", id="one", key="k", headers={"x": "y"})
        client.publish("probe.note", {"n": 2})
        assert (put.topic, put.id) == (later.log, "one")
        later.stage.wait_noted("ran", [2], worker)
        assert later.stage.numbers("ran")[1] == 0
        later.stage.wait_noted("ran", [1], worker)
    (record,) = [m for m in read_all(later.bootstrap, later.topic) if m.key() == b"k"]
    assert record.timestamp()[1] >= (before + 4) * 1000 - 1
    headers = dict(record.headers() or [])
    assert (headers["ce_id"], headers["x"]) == (b"one", b"y")
    assert not [name for name in headers if name.startswith("kworker-")]
    worker.terminate()
    assert worker.wait() == 0


def test_at_asyncio_many_and_a_time_that_passed(later: Delayed) -> None:
    worker = later.worker()
    soon = datetime.now(UTC) + timedelta(seconds=2)

    async def publish() -> None:
        async with AsyncClient(later.bootstrap, topic=later.topic, namespace=later.namespace) as client:
            await client.publish("probe.note", {"n": 1}, at=soon)
            messages = [
                Message("probe.note", {"n": 2}, at=soon.isoformat()),
                Message("probe.note", {"n": 3}, delay=2),
                Message("probe.note", {"n": 4}, at=soon.timestamp()),
            ]
            await client.publish_many(messages)
            past = await client.publish("probe.note", {"n": 5}, at="1999-01-01T00:00:00Z")
            assert past.topic == later.topic
            with pytest.raises(ValueError, match="ten years"):
                await client.publish("probe.note", {"n": 6}, at=4e11)

    asyncio.run(publish())
    later.stage.wait_noted("ran", [1, 2, 3, 4, 5], worker)
    assert set(later.stage.numbers("ran").values()) == {1}


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ({"delay": "1s", "at": 5.0}, "two ways"),
        ({"delay": "soon"}, "not a duration"),
        ({"delay": -1}, "between 0 and"),
        ({"at": "tomorrow"}, "RFC 3339"),
        ({"at": "2027-01-01T00:00:00"}, "no offset from UTC"),
        ({"at": float("nan")}, "not a time"),
        ({"at": 1e18}, "not a time"),
    ],
)
def test_when_can_be_wrong(when: dict[str, object], why: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match=why):
        client.publish("probe.note", **when)  # type: ignore[arg-type]  # what a user may get wrong


def test_the_commands_publish_list_show_move_and_cancel(later: Delayed, run: Run) -> None:
    worker = later.worker()
    publish = ("publish", "probe.note", '{"n": 1}', "--topic", later.topic)
    assert run("delayed", "ls") == (0, "0 waiting\n", "")
    assert run("delayed", "cancel", "one")[:2] == (1, "one: unknown\n")
    assert run(*publish, "--id", "one", "--key", "k", "--delay", "1h")[0] == 0
    assert run(*publish, "--id", "two", "--at", "2033-01-31T09:00:00+01:00")[0] == 0
    later.wait_held(worker)
    listed = run("delayed", "ls")[1].splitlines()
    assert [line.split()[2:] for line in listed[1:-1]] == [
        ["one", "probe.note", later.topic],
        ["two", "probe.note", later.topic],
    ]
    assert listed[2].startswith("2033-01-31T08:00:00.000Z")
    assert run("delayed", "ls", "--limit", "1")[1].endswith("2 waiting, 1 shown\n")
    shown = json.loads(run("delayed", "show", "one")[1])
    assert (shown["id"], shown["topic"], shown["key"], shown["payload"]) == ("one", later.topic, "k", '{"n": 1}')
    assert run("delayed", "show", "one", "--raw")[1] == '{"n": 1}'
    assert run("delayed", "show", "none")[0] == 1
    assert run("delayed", "cancel", "two", "one", "none") == (1, "two: cancelled\none: cancelled\nnone: unknown\n", "")
    assert run(*publish, "--id", "three", "--delay", "1h")[0] == 0
    assert run(*publish, "--id", "three", "--delay", "1s")[0] == 0  # moved
    later.stage.wait_noted("ran", [1], worker)
    assert run("delayed", "cancel", "three")[:2] == (1, "three: too-late\n")
    assert run("delayed", "ls", "--json")[1] == ""
    assert later.stage.numbers("ran") == {1: 1}


def test_the_command_refuses_what_does_not_go_together(run: Run) -> None:
    assert "leave one out" in run("publish", "a", "--delay", "1s", "--wait")[2]
    assert "two ways" in run("publish", "a", "--delay", "1s", "--at", "2033-01-31T09:00:00Z")[2]


def test_without_a_worker_a_request_stays_and_is_obeyed_by_the_next(later: Delayed) -> None:
    with later.client() as client:
        client.publish("probe.note", {"n": 1}, delay="2s", id="one")
        with pytest.raises(DelayError, match=r"no worker answered within 0.5 s"):
            client.cancel("one", timeout=0.5)
        found = client.find_delayed("one")
        assert found is not None
        assert (found.target, [one.id for one in client.delayed()]) == (later.topic, [b"one"])
        while time.time() * 1000 <= found.due:
            time.sleep(0.05)
        worker = later.worker()
        later.wait_held(worker)
        assert client.cancel("one") == "cancelled"
        client.publish("probe.note", {"n": 2})
        later.stage.wait_noted("ran", [2], worker)
        assert later.stage.numbers("ran")[1] == 0


def test_any_client_can_delay_a_task_by_headers(later: Delayed, kafka: Kafka) -> None:
    """A due time and a target; whatever partition it chooses, it can be cancelled."""
    create_topic(later.bootstrap, later.log, 4, WANTED)
    worker = later.worker()
    due = b"%d" % ((time.time() + 1) * 1000)
    far = b"%d" % ((time.time() + 900) * 1000)
    target = ("kworker-target", later.topic.encode())
    records = [
        NewRecord(b'{"n": 7}', b"seven", (("task", b"probe.note"), ("kworker-due", due), target), partition=2),
        NewRecord(b'{"n": 8}', b"eight", (("task", b"probe.note"), ("kworker-due", far), target), partition=3),
    ]
    produce(later.bootstrap, later.log, records)
    later.stage.wait_noted("ran", [7], worker)
    with later.client() as client:
        assert client.cancel("eight") == "cancelled"
        assert client.cancel("seven") == "too-late"


def test_bad_input_22_delays_that_are_none_are_set_aside_and_hold_nobody_up(later: Delayed) -> None:
    """And so are those whose target takes nothing: dead letters that `kworker dlq` can put back."""
    create_topic(later.bootstrap, later.log, 1, {**WANTED, "max.message.bytes": "3000000"})
    small = later.stage.topic(1, config={"max.message.bytes": "1000"})
    worker = later.worker()
    target = ("kworker-target", later.topic.encode())
    dues = [b"nan", b"inf", b"-1", b"1000000000000000000", b"1e3", b"8999999999999999", None, b""]
    bad = [NewRecord(b"{}", b"bad-%d" % n, (target, ("kworker-due", due))) for n, due in enumerate(dues)]
    bad.append(NewRecord(b"{}", b"loop", (("kworker-target", later.log.encode()), ("kworker-due", b"1"))))
    bad.append(NewRecord(b"{}", b"x" * 2000, (target, ("kworker-due", b"1"))))
    produce(later.bootstrap, later.log, bad)
    with later.client() as client:
        client.publish("probe.note", os.urandom(20_000), topic=small, delay=0.2, id="large")
        client.publish("probe.note", {"n": 1}, topic="absent-" + later.topic, delay=0.2, id="absent")
        client.publish("probe.note", {"n": 9}, delay=0.3)
    later.stage.wait_noted("ran", [9], worker)
    later.stage.wait(lambda: "set aside" in worker.logged(), "the log tells of it", worker)
    dead = f"{later.log}.dlq"
    later.stage.wait(
        lambda: dead in AdminClient({"bootstrap.servers": later.bootstrap}).list_topics(timeout=10).topics, dead, worker
    )
    later.stage.wait(lambda: len(read_all(later.bootstrap, dead)) == len(bad), "the dead letters", worker)
    letters = read_all(later.bootstrap, dead)
    assert sorted(m.key() or b"" for m in letters) == sorted(record.key or b"" for record in bad)
    assert {dict(m.headers() or [])["kworker-reason"] for m in letters} == {b"undecodable"}
    with later.client() as client:  # they are tried again for a while
        assert {one.id for one in client.delayed()} == {b"large", b"absent"}


def test_a_delay_log_that_would_lose_tasks_is_told_and_mended(later: Delayed, run: Run) -> None:
    create_topic(later.bootstrap, later.log, 1, {"cleanup.policy": "delete", "min.compaction.lag.ms": "0"})
    place = ("--topic", later.topic, "--group", later.stage.group)
    code, said, _ = run("check", *place)
    assert code == 2
    assert (
        f"FAIL  topic {later.log}: cleanup.policy=delete may lose tasks that wait: set it with: kafka-configs.sh "
        f"--bootstrap-server {later.bootstrap} --alter --topic {later.log} --add-config cleanup.policy=compact\n"
    ) in said
    worker = later.worker()
    later.stage.wait(lambda: held_by(worker) == 1, "the partition is held", worker)
    code, said, _ = run("check", *place)
    assert f"ok    topic {later.log}: keeps delayed tasks\n" in said
    resource = ConfigResource(ConfigResource.Type.TOPIC, later.log)
    client = AdminClient({"bootstrap.servers": later.bootstrap})
    settings = client.describe_configs([resource])[resource].result(10)
    assert settings["min.compaction.lag.ms"].value == WANTED["min.compaction.lag.ms"]


def test_a_worker_without_a_timekeeper_hands_nothing_over(later: Delayed) -> None:
    idle = later.worker("--timekeeper", "false")
    with later.client() as client:
        client.publish("probe.note", {"n": 1}, delay="500ms", id="one")
        client.publish("probe.note", {"n": 2}, delay="1s")
        client.publish("probe.note", {"n": 3})
        later.stage.wait_noted("ran", [3], idle)
        with pytest.raises(DelayError):
            client.cancel("one", timeout=3)
        assert later.stage.numbers("ran") == {3: 1}
        keeper = later.worker()
        later.stage.wait_noted("ran", [2], idle, keeper)


def test_cancels_that_race_the_due_time_win_or_lose(kafka: Kafka, tmp_path: Path) -> None:
    """A thousand: what was cancelled was not handed over, what was too late was, once."""
    count = 1_000
    with Delays(tmp_path, kafka.bootstrap) as delays:
        worker = delays.worker()
        delays.wait_held(worker)
        start = time.time() + 2
        delays.publish((f"task-{n}", start + n / 300) for n in range(count))
        answers: dict[str, str | None] = {}
        with Client(kafka.bootstrap, namespace=delays.namespace) as client:
            for first in range(0, count, 100):
                while time.time() < start + first / 300 - 0.01:
                    time.sleep(0.005)
                ids = [f"task-{n}" for n in range(first, first + 100)]
                answers |= dict(zip(ids, client.delays.cancel(ids, 20), strict=True))
        cancelled = {id for id, answer in answers.items() if answer == "cancelled"}
        late = {id for id, answer in answers.items() if answer == "too-late"}
        print(f"{len(cancelled)} cancelled, {len(late)} too late", file=sys.stderr)
        assert len(cancelled) + len(late) == count
        assert cancelled
        assert late
        delays.published = {id: due for id, due in delays.published.items() if id in late}
        delays.wait_handed(len(late), 30)
        delays.check()
        assert {one.id for one in delays.handed} == late
