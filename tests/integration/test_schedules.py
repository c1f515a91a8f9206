"""Schedules as their users meet them: by the commands, from Python, in kworker.toml, and beside a plugin's tasks."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kit import Kafka, NewRecord, create_topic, produce, read_all
from kit.delays import held_by
from kit.stage import PLUGIN, Stage, metric
from kit.worker_process import WorkerProcess
from kworker import AsyncClient, Client, DelayError, cli
from kworker.core.delayed import log_of
from kworker.core.scheduled import BARRIER, key_of
from kworker.kafka.delaylog import WANTED
from kworker.schedules.schedule import Standing

YEARLY = 'cron = "0 3 1 1 *"'


class Scheduled:
    """A stage whose workers have a namespace of their own, and read one topic."""

    def __init__(self, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
        self.stage = stage
        self.bootstrap = stage.bootstrap
        self.namespace = f"scheduled-{uuid.uuid4().hex[:10]}"
        self.log = log_of(self.namespace)
        self.topic = stage.topic(2)
        self._capsys = capsys

    def worker(self, *arguments: str, site: Path = PLUGIN) -> WorkerProcess:
        return self.stage.start("--namespace", self.namespace, *arguments, topics=[self.topic], site=[site])

    def client(self) -> Client:
        return Client(self.bootstrap, topic=self.topic, namespace=self.namespace)

    def wait_held(self, *workers: WorkerProcess) -> None:
        self.stage.wait(lambda: sum(map(held_by, workers)) == 4, "the partitions of the delay log are held", *workers)

    def kworker(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command: (exit code, standard output, standard error)."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main(list(arguments))
        said = self._capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, said.out, said.err

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `kworker schedule ...`."""
        return self.kworker("schedule", *arguments)

    def file(self, *tables: str) -> Path:
        """A kworker.toml with these schedules."""
        path = self.stage.folder / "kworker.toml"
        path.write_text(f'group = "{self.stage.group}"\ntopic = "{self.topic}"\n' + "\n".join(tables))
        return path

    def standing(self) -> dict[str, Standing]:
        with self.client() as client:
            return {one.schedule.name: one for one in client.schedules.ls()}

    def listed(self) -> dict[str, dict[str, Any]]:
        """What `ls --json` says of each, by the commits of the workers' group."""
        code, said, wrong = self.run("ls", "--json", "--group", self.stage.group)
        assert (code, wrong) == (0, "")
        return {one["name"]: one for one in map(json.loads, said.splitlines())}

    def outcomes(self) -> dict[str, str]:
        return {name: one["outcome"] for name, one in self.listed().items()}

    def records(self) -> Counter[str]:
        """How many records of the delay log say how each schedule stands."""
        found = [m for m in read_all(self.bootstrap, self.log) if m.value() is not None]
        return Counter((m.key() or b"").decode().partition("/")[2] for m in found if b"schedule/" in (m.key() or b""))

    def obeyed(self) -> None:
        """Until the owners of the delay log have read all that is there."""
        with self.client() as client:
            assert client.delays.cancel([BARRIER], 20.0) == ["unknown"]


@pytest.fixture
def scheduled(
    kafka: Kafka, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scheduled]:
    monkeypatch.chdir(tmp_path)
    with Stage(tmp_path, kafka.bootstrap) as stage:
        made = Scheduled(stage, capsys)
        monkeypatch.setenv("KWORKER_BOOTSTRAP", made.bootstrap)
        monkeypatch.setenv("KWORKER_NAMESPACE", made.namespace)
        yield made


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


def test_the_commands_add_list_pause_resume_run_and_remove(scheduled: Scheduled) -> None:
    worker = scheduled.worker()
    add = ("--task", "probe.note", "--topic", scheduled.topic)
    assert scheduled.run("ls") == (0, "no schedules\n", "")
    code, said, _ = scheduled.run("add", "yearly", "--cron", "0 3 1 1 *", "--tz", "Europe/Berlin", *add)
    assert code == 0
    assert re.fullmatch(r"yearly: added; next run 20\d\d-01-01T03:00:00\+01:00\n", said)
    said = scheduled.run("add", "yearly", "--cron", "30 4 1 1 *", *add, "--payload", '{"n": 1}')[1]
    assert re.fullmatch(r"yearly: replaced; next run 20\d\d-01-01T04:30:00Z\n", said)
    (scheduled.stage.folder / "p.json").write_text('{"n": 2}')
    assert scheduled.run("add", "tick", "--every", "1s", "--payload", "@p.json", *add)[0] == 0
    scheduled.stage.wait_noted("ran", [2], worker)
    scheduled.stage.wait(lambda: scheduled.outcomes()["tick"] == "done", "its outcome", worker)
    head, tick, yearly = scheduled.run("ls", "--group", scheduled.stage.group)[1].splitlines()
    assert head.split() == ["NAME", "WHEN", "TASK", "TO", "NEXT", "LAST", "OUTCOME"]
    assert tick.split()[:5] == ["tick", "every", "1s", "probe.note", scheduled.topic]
    assert re.search(rf"yearly +30 4 1 1 \* UTC +probe.note +{scheduled.topic} +20\d\d-01-01T04:30:00Z +- +-", yearly)
    shown = scheduled.listed()["tick"]
    assert (shown["every"], shown["payload"], shown["source"]) == (1.0, {"n": 2}, "")
    assert len(shown["next"]) == 5
    assert shown["last_id"] == f"tick@{shown['last']}"

    assert scheduled.run("pause", "tick", "none") == (
        1,
        "tick: paused\n",
        "kworker: there is no schedule 'none': `kworker schedule ls` lists them\n",
    )
    scheduled.obeyed()
    before = len(read_all(scheduled.bootstrap, scheduled.topic))
    assert re.search(r"tick .* paused +20", scheduled.run("ls")[1])
    assert scheduled.run("pause", "tick")[:2] == (0, "tick: paused\n")
    code, said, _ = scheduled.run("run", "yearly")
    assert code == 0
    (id, place) = said.strip().split(": ")
    assert re.fullmatch(r"yearly@20\S+Z", id)
    scheduled.stage.wait_noted("ran", [1], worker)
    found = read_all(scheduled.bootstrap, scheduled.topic)
    assert len(found) == before + 1
    (mine,) = [m for m in found if dict(m.headers() or [])["ce_id"] == id.encode()]
    assert f"{mine.topic()}/{mine.partition()}/{mine.offset()}" == place

    assert scheduled.run("resume", "tick")[1].startswith("tick: resumed; next run 20")
    ran = scheduled.stage.numbers("ran")[2]
    scheduled.stage.wait(lambda: scheduled.stage.numbers("ran")[2] > ran, "it goes on", worker)
    assert scheduled.run("rm", "tick", "yearly", "none") == (1, "tick: removed\nyearly: removed\nnone: unknown\n", "")
    after = len(read_all(scheduled.bootstrap, scheduled.topic))
    scheduled.obeyed()
    assert scheduled.run("ls")[1] == "no schedules\n"
    ids = [dict(m.headers() or [])["ce_id"] for m in read_all(scheduled.bootstrap, scheduled.topic)]
    assert len(ids) == len(set(ids)) == after


def test_outcomes_are_what_can_be_known(scheduled: Scheduled) -> None:
    worker = scheduled.worker("--retry-in-memory", "1s")
    elsewhere = scheduled.stage.topic()
    for name, n in [("fail", 1), ("hold", 2), ("later", 900), ("note", 3)]:
        topic = elsewhere if name == "note" else scheduled.topic
        given = ("--task", f"probe.{name}", "--at", soon(), "--payload", json.dumps({"n": n}), "--topic", topic)
        assert scheduled.run("add", name, *given)[0] == 0
    wanted = {"fail": "dead letter: exhausted", "hold": "unfinished", "later": "waits for a retry", "note": "enqueued"}
    scheduled.stage.wait(lambda: scheduled.outcomes() == wanted, f"{wanted}", worker)
    assert [one["next"] for one in scheduled.listed().values()] == [[], [], [], []]
    listed = scheduled.run("ls", "--group", scheduled.stage.group)[1]
    assert re.search(r"^hold .* over +20\S+ +unfinished$", listed, re.M)
    scheduled.stage.let_go()
    scheduled.stage.wait(lambda: scheduled.outcomes()["hold"] == "done", "the held one is done", worker)


def test_what_is_wrong_is_told_at_once(scheduled: Scheduled) -> None:
    wrong = ("--cron", "99 * * * *", "--tz", "Mars", "--payload", "{", "--topic", "a b", "--most", "0", "-X", "no=1")
    code, said, told = scheduled.run("add", "a b", *wrong)
    assert (code, said) == (2, "")
    lines = told.splitlines()
    assert all(line.startswith("kworker: ") for line in lines)
    for start in ("-X no", "--payload", "schedule a b", "--cron", "--tz", "--topic", "--most", "--task"):
        assert [line for line in lines if line.startswith(f"kworker: {start}")], start
    assert len(lines) == 8
    assert "say when" in scheduled.run("add", "a", "--task", "b")[2]
    assert "that time has passed" in scheduled.run("add", "a", "--task", "b", "--at", "2020-01-01T00:00:00Z")[2]
    assert "cannot read" in scheduled.run("add", "a", "--task", "b", "--every", "1s", "--payload", "@absent")[2]
    assert scheduled.run("add", "a", "--every", "1s", "--task", "b", "--misfire", "x")[0] == 2
    assert scheduled.run("pause", "a")[0] == 1
    assert scheduled.run("rm", "a", "--timeout", "x")[0] == 2
    assert scheduled.run("rm", "a")[:2] == (1, "a: unknown\n")  # there is no delay log yet
    assert scheduled.run("apply")[2] == (
        "kworker: group: not given: name the consumer group with --group, KWORKER_GROUP or group in kworker.toml\n"
    )
    assert scheduled.standing() == {}


def test_a_removal_that_nobody_answered_does_not_remove_what_is_added_again(scheduled: Scheduled) -> None:
    add = ("--task", "probe.note", "--topic", scheduled.topic, "--every", "1h")
    for name in ("gone", "back"):
        assert scheduled.run("add", name, *add)[0] == 0
    code, said, told = scheduled.run("rm", "gone", "back", "--timeout", "100ms")
    assert (code, said) == (1, "")
    assert told.count("no worker answered within 0.1 s") == 2
    assert scheduled.run("add", "back", *add)[1].startswith("back: replaced")
    worker = scheduled.worker()
    scheduled.wait_held(worker)
    scheduled.obeyed()
    assert list(scheduled.standing()) == ["back"]


def test_python_blocking_and_asyncio(scheduled: Scheduled) -> None:
    worker = scheduled.worker()
    with scheduled.client() as client:
        added = client.schedules.add("tick", "probe.note", {"n": 1}, every=1, key="k", misfire="all", most=5)
        assert (added.schedule.topic, added.schedule.key) == (scheduled.topic, "k")
        with pytest.raises(ValueError, match=r"cron: .*; misfire: "):
            client.schedules.add("tick", "probe.note", cron="x", misfire="y")
        with pytest.raises(DelayError, match="there is no schedule 'x'"):
            client.schedules.pause("x")
        scheduled.stage.wait_noted("ran", [1], worker)

    async def change() -> None:
        async with AsyncClient(scheduled.bootstrap, topic=scheduled.topic, namespace=scheduled.namespace) as client:
            await client.schedules.add("other", "probe.note", {"n": 2}, at=time.time() + 3600)
            assert (await client.schedules.pause("tick")).next is None
            assert (await client.schedules.run("other")).id.startswith("other@20")
            assert [one.schedule.name for one in await client.schedules.ls()] == ["other", "tick"]
            assert (await client.schedules.resume("tick")).next is not None
            assert await client.schedules.remove("tick") == "removed"
            assert await client.schedules.remove("tick") == "unknown"

    asyncio.run(change())
    scheduled.stage.wait_noted("ran", [2], worker)
    assert list(scheduled.standing()) == ["other"]


def test_the_file_is_applied_at_a_start_once_and_what_left_it_is_removed(scheduled: Scheduled) -> None:
    note = 'task = "probe.note"\npayload = { n = 1 }'
    a, b = f"[schedules.a]\n{YEARLY}\n{note}", f"[schedules.b]\n{YEARLY}\n{note}"
    hand = f"[schedules.hand]\n{YEARLY}\n{note}"
    with scheduled.client() as client:
        client.schedules.add("hand", "probe.note", every="1h")
    config = ("--config", str(scheduled.file(a, b, hand)))
    both = [scheduled.worker(*config) for _ in range(2)]  # at the same time
    scheduled.stage.wait(lambda: {"a", "b"} <= scheduled.standing().keys(), "they stand", *both)
    told = "left as it is: it came from somebody's hand"
    scheduled.stage.wait(lambda: all(told in worker.logged() for worker in both), "both told", *both)
    assert {name: one.schedule.source for name, one in scheduled.standing().items()} == {
        "a": f"file:{scheduled.stage.group}",
        "b": f"file:{scheduled.stage.group}",
        "hand": "",
    }
    assert scheduled.records() == {"a": 1, "b": 1, "hand": 1}
    scheduled.wait_held(*both)
    assert scheduled.run("pause", "a")[0] == 0
    assert scheduled.run("apply", *config) == (
        1,
        "",
        "kworker: hand: not applied: the one that stands was added by hand; remove it, or name yours otherwise\n",
    )
    assert scheduled.records() == {"a": 2, "b": 1, "hand": 1}
    assert scheduled.standing()["a"].schedule.paused

    config = ("--config", str(scheduled.file(a, f"[schedules.c]\n{YEARLY}\n{note}")))
    third = scheduled.worker(*config)
    scheduled.stage.wait(lambda: scheduled.standing().keys() == {"a", "c", "hand"}, "b is gone", third, *both)
    assert scheduled.standing()["a"].schedule.paused
    assert scheduled.records()["a"] == 2

    other = ("--config", str(scheduled.file(f"[schedules.c]\n{YEARLY}\n{note}")), "--group", "another")
    code, said, told = scheduled.run("apply", *other)
    assert (code, said) == (1, "")
    assert told == (
        f"kworker: c: not applied: the one that stands came from file:{scheduled.stage.group}; remove it, or name "
        "yours otherwise\n"
    )


def test_a_file_that_says_nothing_of_schedules_is_not_an_empty_one(scheduled: Scheduled) -> None:
    """A worker with the wrong file removes none; by hand, what is not in the file goes."""
    config = ("--config", str(scheduled.file(f'[schedules.a]\n{YEARLY}\ntask = "probe.note"')))
    assert scheduled.run("apply", *config)[1].startswith("a: applied; next run 20")
    silent = scheduled.worker("--config", str(scheduled.file()))
    scheduled.wait_held(silent)
    assert list(scheduled.standing()) == ["a"]
    assert "schedule removed" not in silent.logged()
    empty = scheduled.worker("--config", str(scheduled.file("[schedules]")))
    scheduled.stage.wait(lambda: scheduled.standing() == {}, "it is removed", silent, empty)
    config = ("--config", str(scheduled.file(f'[schedules.a]\n{YEARLY}\ntask = "probe.note"')))
    assert scheduled.run("apply", *config)[0] == 0
    config = ("--config", str(scheduled.file()))
    assert scheduled.run("apply", *config) == (0, "a: removed\n", "")
    assert scheduled.run("apply", *config) == (0, "nothing to change\n", "")


def test_what_only_newer_workers_can_read_is_left_alone_until_somebody_removes_it(scheduled: Scheduled) -> None:
    value = b'{"schedule":{"name":"a","color":1},"last":0}'
    create_topic(scheduled.bootstrap, scheduled.log, 4, WANTED)
    produce(scheduled.bootstrap, scheduled.log, [NewRecord(value, key_of("a"))])
    config = scheduled.file(*(f'[schedules.{name}]\n{YEARLY}\ntask = "probe.note"' for name in "ab"))
    worker = scheduled.worker("--config", str(config))
    scheduled.wait_held(worker)
    scheduled.stage.wait(lambda: list(scheduled.standing()) == ["b"], "the others stand", worker)
    scheduled.stage.wait(lambda: metric(worker, "kworker_schedules_unreadable") == 1, "it is told", worker)
    assert "waits for a worker that can read it" in worker.logged()
    assert "only newer workers can read it" in worker.logged()
    assert scheduled.run("rm", "a")[:2] == (0, "a: removed\n")
    scheduled.stage.wait(lambda: metric(worker, "kworker_schedules_unreadable") == 0, "it is gone", worker)


def test_a_worker_works_while_its_schedules_cannot_be_applied(scheduled: Scheduled) -> None:
    config = scheduled.file(f'[schedules.a]\n{YEARLY}\ntask = "probe.note"')
    arguments = ("--config", str(config), "--create-topics", "false")
    worker = scheduled.worker(*arguments)
    worker.wait_ready()
    scheduled.stage.publish(scheduled.topic, "note", [1])
    scheduled.stage.wait_noted("ran", [1], worker)
    told = "the schedules could not be applied, it is tried again: it is missing; make it with: kafka-topics.sh"
    scheduled.stage.wait(lambda: told in worker.logged(), "it is told", worker)
    code, said, _ = scheduled.kworker("check", *arguments)
    assert code == 2
    assert f"FAIL  schedules a: the delay log {scheduled.log} is missing: make it with: kafka-topics.sh" in said
    create_topic(scheduled.bootstrap, scheduled.log, 4, WANTED)
    scheduled.stage.wait(lambda: "a" in scheduled.standing(), "it is applied", worker)
    assert "ok    schedules: a\n" in scheduled.kworker("check", *arguments)[1]


def test_a_plugin_has_its_tasks_published(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    site = scheduled.stage.folder / "site"
    info = site / "clock-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clock\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kworker.plugins]\nclock = clock_plugin\n")
    (site / "clock_plugin.py").write_text(
        "from kworker import schedule, task\n"
        "@schedule(every='1s', payload={'n': 1}, name='tick')\n"
        "@schedule(cron='0 3 1 1 *', tz='Europe/Berlin')\n"
        "@task('clock.note')\n"
        "def note(n: int = 0) -> None: ...\n"
    )
    worker = scheduled.worker("--plugin", "clock", site=site)
    scheduled.stage.wait(lambda: len(scheduled.standing()) == 2, "they stand", worker)
    assert {one.schedule.source for one in scheduled.standing().values()} == {f"plugin:{scheduled.stage.group}"}
    scheduled.stage.wait(lambda: scheduled.outcomes()["tick"] == "done", "a run is done", worker)
    monkeypatch.syspath_prepend(str(site))
    shown = scheduled.kworker("plugins", "--plugin", "clock")[1].splitlines()
    assert [line.split() for line in shown[-3:]] == [
        ["PLUGIN", "SCHEDULE", "TASK", "WHEN"],
        ["clock", "tick", "clock.note", "every", "1s"],
        ["clock", "clock.note", "clock.note", "0", "3", "1", "1", "*", "Europe/Berlin"],
    ]
    place = ("--plugin", "clock", "--topic", scheduled.topic, "--group", scheduled.stage.group)
    assert "ok    schedules: tick, clock.note\n" in scheduled.kworker("check", *place)[1]
    scheduled.wait_held(worker)
    said = scheduled.run("apply", "--plugin", "probe", *place[2:])
    assert said == (5, "", 'kworker: plugin "probe" is not installed; installed: clock\n') or said[0] == 5
    assert scheduled.standing()["tick"].schedule.task == "clock.note"
    assert key_of("tick") in {m.key() for m in read_all(scheduled.bootstrap, scheduled.log)}
