"""`kworker dlq` on a real Kafka: what each command tells and does, and what it refuses on one line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

import kit
from kit import Kafka, MakeTopic, NewRecord, committed, create_topic, end_offsets, produce, read_all, wait_for
from kit.deadletters import Original, Said
from kit.worker_process import WorkerProcess
from kworker.cli import main
from kworker.core.deadletter import CUT
from kworker.task import ErrorInfo, Reason

DEADLINE = 60.0
PLUGIN = Path(kit.__file__).parent / "replay_plugin"
OTHER = ErrorInfo("schema", "Expected `int`, got `str` - at `$.cents`")


Dlq = Callable[..., Said]


@pytest.fixture
def dlq(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Dlq:
    """Runs `kworker dlq` in this process, in an empty folder, with nobody at a terminal."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, bootstrap: str = kafka.bootstrap) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["dlq", *arguments, "--bootstrap", bootstrap])
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return run


class Set:
    """A source topic, its dead letters, and the command to work with them."""

    def __init__(self, kafka: Kafka, source: str, dlq: Dlq, folder: Path) -> None:
        self.bootstrap = kafka.bootstrap
        self.dlq = dlq
        self.source = source
        self.letters = source + ".dlq"
        self.folder = folder
        create_topic(kafka.bootstrap, self.letters, 2)

    def fill(self, *records: NewRecord) -> None:
        produce(self.bootstrap, self.letters, records)

    def run(self, verb: str, *arguments: str, place: str = "") -> Said:
        return self.dlq(verb, self.letters + place, *arguments)

    def replayed(self) -> list[tuple[object, ...]]:
        return [(m.partition(), m.key(), m.value()) for m in read_all(self.bootstrap, self.source)]

    def groups(self, *arguments: str) -> list[tuple[str, int, int]]:
        """Task, count and how many are resolved, of each group."""
        said = self.run("ls", "--json", *arguments)
        assert said.code == 0, said
        return [(g["task"], g["count"], g["resolved"]) for g in json.loads(said.out)["groups"]]


@pytest.fixture
def work(kafka: Kafka, topic: MakeTopic, dlq: Dlq, tmp_path: Path) -> Set:
    return Set(kafka, topic(2), dlq, tmp_path)


def original(work: Set, n: int, task: bytes = b"mail") -> Original:
    return Original(work.source, n % 2, n // 2, b"k%d" % n, b'{"n": %d}' % n, [("ce_type", task), ("ce_id", b"%d" % n)])


def mixed(work: Set) -> None:
    """Six letters of mail, four of book."""
    work.fill(
        *(original(work, n).letter() for n in range(6)),
        *(original(work, n, b"book").letter(Reason.INVALID, OTHER, at=1_764_000_100 + n) for n in range(6, 10)),
    )


def test_letters_are_listed_by_task_and_error(work: Set) -> None:
    mixed(work)
    said = work.run("ls")
    head, mail, book = said.out.splitlines()
    assert head.split() == [
        "COUNT",
        *["FIRST", "SEEN", "LAST", "SEEN"],
        "TASK",
        "REASON",
        "ERROR",
        "FINGERPRINT",
        "SAMPLE",
        "MESSAGE",
    ]
    assert mail.split()[:6] == ["6", "2025-11-24T16:00:00Z", "2025-11-24T16:00:00Z", "mail", "exhausted", "ValueError"]
    assert book.split()[:3] == ["4", "2025-11-24T16:01:46Z", "2025-11-24T16:01:49Z"]
    assert book.split()[7] == f"{work.letters}:1:4"
    assert book.endswith("Expected `int`, got `str` - at `$.cents`")
    assert work.groups("--where", "reason=invalid") == [("book", 4, 0)]
    assert work.groups("--since", "2025-11-24T16:01:47Z", "--before", "2025-11-24T16:01:49Z") == [("book", 2, 0)]
    capped = work.run("ls", "--limit", "1").out.splitlines()
    assert capped[-1] == "4 more letters in other groups: see them with --limit or --where"
    assert committed(work.bootstrap, f"kworker.dlq.{work.letters}", work.letters) == {}, "ls changes nothing"


def test_a_letter_is_shown(work: Set) -> None:
    value = b'{"a":"\xc2\x9b"}'
    work.fill(original(work, 0)._replace(value=value).letter())
    said = work.run("show", place=":0:0")
    assert f"letter      {work.letters}:0:0, unresolved" in said.out.splitlines()
    assert '  "a": "\\x9b"' in said.out.splitlines()
    shown = json.loads(work.run("show", "--json", place=":0:0").out)
    assert (shown["payload"], shown["reason"], shown["resolved"]) == ({"a": "\x9b"}, "exhausted", False)
    assert work.run("show", "--raw", place=":0:0").out.encode() == value
    assert work.run("purge", place=":0:0").code == 0
    assert "resolved" in work.run("show", place=":0:0").out.splitlines()[0].split(", ")
    missing = work.run("show", place=":0:9")
    assert (missing.code, len(missing.err.splitlines())) == (2, 1)


def test_what_is_meant_is_put_back_and_the_rest_stays(work: Set) -> None:
    mixed(work)
    dry = work.run("replay", "--where", "task=book", "--dry-run")
    assert len(dry.out.splitlines()) == 5
    assert f"-> {work.source}/1" in dry.out
    assert dry.out.endswith(f"{work.letters}: 4 letters would be put back\n")
    assert work.replayed() == []
    assert work.run("replay", "--where", "task=book", "--limit", "3").code == 0
    assert work.run("replay", "--where", "task=book").out == f"{work.letters}: 1 letter put back\n"
    assert sorted(work.replayed()) == sorted((n % 2, b"k%d" % n, b'{"n": %d}' % n) for n in range(6, 10))
    assert work.groups() == [("mail", 6, 0)]
    assert work.groups("--all") == [("mail", 6, 0), ("book", 4, 4)]
    assert work.run("replay", "--rate", "1000/s").out == f"{work.letters}: 6 letters put back\n"
    done = committed(work.bootstrap, f"kworker.dlq.{work.letters}", work.letters)
    assert {partition: offset for partition, (offset, _) in done.items()} == end_offsets(work.bootstrap, work.letters)


def test_a_purge_marks_and_deletes_what_is_resolved(work: Set) -> None:
    mixed(work)
    assert work.run("purge", "--where", "task=mail").out == f"{work.letters}: 6 letters marked resolved\n"
    assert work.groups() == [("book", 4, 0)]
    assert work.replayed() == []
    refused = work.run("purge", "--before", "0s")
    assert refused.code == 2
    assert refused.err.endswith("--yes says so\n")
    assert work.run("purge", "--before", "1h", "--yes").out == f"{work.letters}: nothing is that old and resolved\n"
    assert "these would be deleted" in work.run("purge", "--before", "0s", "--dry-run").out
    assert work.run("purge", "--before", "0s", "--yes").code == 0
    assert work.groups("--all") == [("book", 4, 0)]
    assert work.run("purge", "--before", "0s", "--unresolved", "--yes").code == 0
    assert work.groups("--all") == []
    assert work.dlq("purge", work.source, "--before", "0s", "--yes").code == 2
    assert work.run("purge", "--before", "0s", "--where", "task=mail").code == 2
    assert work.run("purge", "--unresolved").code == 2


def test_the_payload_of_one_letter_is_changed(work: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(work)
    editor = work.folder / "editor.py"
    editor.write_text(
        "import sys\np = sys.argv[1]\nt = open(p).read()\nopen(p, 'w').write(t.replace('0', '100') + '\\n')"
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    several = work.run("replay", "--edit")
    assert (several.code, work.replayed()) == (2, [])
    assert "exactly one letter, and several are meant" in several.err
    assert work.run("replay", "--where", "id=0", "--edit").out == f"{work.letters}: 1 letter put back\n"
    (work.folder / "new").write_bytes(b"\xff\x00")
    assert work.run("replay", "--payload", f"@{work.folder / 'new'}", place=":1:0").code == 0
    assert work.replayed() == [(0, b"k0", b'{"n": 100}'), (1, b"k1", b"\xff\x00")]
    assert "no unresolved letter is meant" in work.run("replay", "--edit", place=":0:0").err
    editor.write_text("import sys\nopen(sys.argv[1], 'w').write('{')")
    broken = work.run("replay", "--where", "id=2", "--edit")
    assert (broken.code, "is not JSON" in broken.err, len(work.replayed())) == (1, True, 2)
    assert sorted(work.groups()) == [("book", 4, 0), ("mail", 4, 0)]


def test_another_topic_or_a_partition_that_is_gone(kafka: Kafka, work: Set, topic: MakeTopic) -> None:
    other = topic(1)
    work.fill(original(work, 1).letter(), original(work, 2)._replace(partition=9).letter(partition=0))
    gone = original(work, 3)._replace(topic="no-such-topic")
    work.fill(gone.letter(), original(work, 5)._replace(topic="__consumer_offsets").letter())
    said = work.run("replay")
    assert (said.code, said.out) == (1, f"{work.letters}: 2 letters put back\n"), said
    assert "there is no topic no-such-topic: create it, or name another with --to" in said.err
    assert "came from __consumer_offsets, which takes no tasks" in said.err
    assert len(said.err.splitlines()) == 2
    assert {value for _, _, value in work.replayed()} == {b'{"n": 1}', b'{"n": 2}'}
    assert work.run("replay", "--to", other).code == 0
    assert [message.value() for message in read_all(kafka.bootstrap, other)] == [b'{"n": 3}', b'{"n": 5}']


def test_a_truncated_letter_is_put_back_whole_or_not_at_all(work: Set) -> None:
    big = NewRecord(b"v" * 5_000, b"k", (("ce_type", b"mail"), ("h", bytes(20_000))), 0)
    produce(work.bootstrap, work.source, [big, big._replace(value=b"other")])
    for offset in (0, 1, 7):
        work.fill(Original(work.source, 0, offset, big.key, big.value, big.headers).letter(level=CUT))
    assert "5000 bytes, at" in work.run("show", place=":0:0").out
    said = work.run("replay")
    assert (said.code, said.out) == (1, f"{work.letters}: 1 letter put back\n")
    assert "holds another record now" in said.err
    assert "has the offsets 0 to" in said.err
    last = read_all(work.bootstrap, work.source)[-1]
    assert (last.key(), last.value()) == (big.key, big.value)
    assert last.headers() == [*big.headers, ("kworker-replay", b"1")]


def test_a_letter_in_an_open_transaction_is_not_passed(work: Set) -> None:
    work.fill(original(work, 0).letter())
    producer = Producer({"bootstrap.servers": work.bootstrap, "transactional.id": work.letters})
    producer.init_transactions(30)
    producer.begin_transaction()
    letter = original(work, 2).letter()
    producer.produce(work.letters, letter.value, letter.key, 0, headers=list(letter.headers))
    producer.flush(30)
    work.fill(original(work, 4).letter())
    assert work.run("replay").out == f"{work.letters}: 1 letter put back\n"
    producer.commit_transaction(30)
    assert work.run("replay").out == f"{work.letters}: 2 letters put back\n"
    assert sorted(str(value) for _, _, value in work.replayed()) == [str(b'{"n": %d}' % n) for n in (0, 2, 4)]


def test_what_kafka_may_have_forgotten_is_asked(work: Set) -> None:
    old = int((time.time() - 8 * 86_400) * 1000)
    work.fill(original(work, 0).letter()._replace(timestamp=old))
    said = work.run("replay")
    assert (said.code, work.replayed()) == (2, [])
    (line,) = said.err.splitlines()
    assert "offsets.retention.minutes" in line
    assert work.run("replay", "--dry-run").code == 0
    assert work.run("replay", "--yes").out == f"{work.letters}: 1 letter put back\n"
    work.fill(original(work, 2).letter()._replace(timestamp=old))
    assert work.run("replay").out == f"{work.letters}: 1 letter put back\n", "a replay is known now"


def test_a_worker_runs_what_is_put_back_and_a_loop_ends(work: Set) -> None:
    tasks = [NewRecord(None, b"k", (("ce_type", b"replay.reject"), ("a", None), ("a", b"\xff")), n) for n in range(2)]
    produce(work.bootstrap, work.source, tasks)
    arguments = ("--group", work.source, "--topic", work.source, "--bootstrap", work.bootstrap, "--plugin", "replay")
    worker = WorkerProcess(work.folder / "worker", *arguments, site=[PLUGIN])
    try:
        for round in range(1, 5):
            wait_for(lambda: len(read_all(work.bootstrap, work.letters)) == 2 * round, DEADLINE, "letters")  # noqa: B023 - called here
            said = work.run("replay")
            if round < 4:
                assert (said.code, said.out) == (0, f"{work.letters}: 2 letters put back\n"), said
        assert (said.code, said.out) == (1, f"{work.letters}: 0 letters put back\n")
        assert said.err.count("it was replayed 3 times already: --max-replays 4 lets it go") == 2
        worker.terminate()
        assert worker.wait() == 0
    finally:
        worker.close()
    assert [message.headers() for message in read_all(work.bootstrap, work.source)] == [
        [*tasks[0].headers, *([("kworker-replay", b"%d" % times)] if times else [])]
        for _ in range(2)
        for times in range(4)
    ]
    assert work.groups() == [("replay.reject", 2, 0)]
    assert work.groups("--all") == [("replay.reject", 8, 6)]


def test_what_is_not_there_is_told_on_one_line(dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kworker.dlq.letters.TIMEOUT", 1.0)
    for verb in ("ls", "replay", "purge"):
        said = dlq(verb, "no-such.dlq")
        assert (said.code, said.out) == (2, "")
        assert said.err == "kworker: no-such.dlq: there is no such topic at this broker: name a dead-letter topic\n"
        away = dlq(verb, "no-such.dlq", bootstrap="127.0.0.1:1")
        (line,) = away.err.splitlines()
        assert away.code == 2
        assert line.startswith("kworker: no-such.dlq: broker 127.0.0.1:1: ")
        assert "check --bootstrap" in line
