"""`kworker dlq replay` interrupted, refused and fenced: every letter is put back once, byte for byte, or stays."""

from __future__ import annotations

import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Message

from kit import Kafka, MakeTopic, create_topic, end_offsets, produce, read_all, wait_for
from kit.deadletters import Original, command, dlq
from kworker.task import Headers

DEADLINE = 60.0
PARTITIONS = 3


def originals(source: str, count: int) -> list[Original]:
    """Records with every kind of key, value and header that Kafka knows."""
    made = []
    for n in range(count):
        more: list[Headers] = [[("n", b"twice"), ("n", None)], [("bin", bytes(range(256))), ("", b"")], []]
        headers: Headers = [("ce_type", b"t.one"), ("n", b"%d" % n), *more[n % 3]]
        headers += [("kworker-origin", b"forged/0/0")] if n % 5 == 0 else []
        key = [None, b"", b"key %d" % (n % 40), b"\xff\x00"][n % 4]
        value = None if n % 11 == 0 else b"" if n % 11 == 1 else b'{"n": %d, "\xc3\xa4": "\x00\xff"}' % n
        made.append(Original(source, n % PARTITIONS, n // PARTITIONS, key, value, headers))
    return made


def put_back(made: list[Original], times: int = 1) -> dict[int, list[tuple[object, ...]]]:
    """What these must be after a replay, by partition, in order."""
    found: dict[int, list[tuple[object, ...]]] = {}
    for one in made:
        replay = ("kworker-replay", b"%d" % times)
        found.setdefault(one.partition, []).append((one.key, one.value, [*one.headers, replay]))
    return found


def by_partition(messages: list[Message]) -> dict[int, list[tuple[object, ...]]]:
    found: dict[int, list[tuple[object, ...]]] = {}
    for message in messages:
        found.setdefault(message.partition() or 0, []).append((message.key(), message.value(), message.headers()))
    return found


def written(kafka: Kafka, source: str) -> int:
    """How far the topic goes, with open transactions and their marks."""
    return sum(end_offsets(kafka.bootstrap, source).values())


def interrupted(kafka: Kafka, folder: Path, source: str, count: int, rate: int, seed: int) -> None:
    """Put all back, killed with -9 twice in the middle."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    letters = source + ".dlq"
    made = originals(source, count)
    create_topic(kafka.bootstrap, letters, PARTITIONS)
    produce(kafka.bootstrap, letters, [one.letter() for one in made])
    for round in (1, 2):
        before = written(kafka, source)
        enough = before + chance.randrange(count // 12, count // 4)
        with subprocess.Popen(
            command(kafka.bootstrap, "replay", letters, "--rate", f"{rate}/s"), cwd=folder, stderr=subprocess.PIPE
        ) as process:
            wait_for(lambda: written(kafka, source) >= enough, DEADLINE, f"letters put back in round {round}")  # noqa: B023 - called here
            process.kill()
            assert process.wait(DEADLINE) == -signal.SIGKILL, process.stderr and process.stderr.read()
    said = dlq(kafka.bootstrap, folder, "replay", letters, timeout=DEADLINE * 2)
    assert (said.code, said.err) == (0, ""), said
    assert by_partition(read_all(kafka.bootstrap, source)) == put_back(made)
    again = dlq(kafka.bootstrap, folder, "replay", letters)
    assert again.out == f"{letters}: 0 letters put back\n"
    assert dlq(kafka.bootstrap, folder, "ls", letters).out == f"{letters}: no unresolved letters\n"
    assert by_partition(read_all(kafka.bootstrap, source)) == put_back(made)


def test_a_replay_killed_twice_puts_each_letter_back_once(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    interrupted(kafka, tmp_path, topic(PARTITIONS), 600, 200, random.randrange(1 << 32))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ten_thousand_letters_killed_twice_are_put_back_once(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    interrupted(kafka, tmp_path, topic(PARTITIONS), 10_000, 2_000, random.randrange(1 << 32))


def test_a_filtered_replay_killed_resumes_among_the_others(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    source = topic(1)
    letters = source + ".dlq"
    made = [Original(source, 0, n, b"k", b"%d" % n, [("ce_type", b"odd" if n % 2 else b"even")]) for n in range(200)]
    create_topic(kafka.bootstrap, letters, 1)
    produce(kafka.bootstrap, letters, [one.letter() for one in made])
    arguments = ("replay", letters, "--where", "task=odd")
    with subprocess.Popen(command(kafka.bootstrap, *arguments, "--rate", "50/s"), cwd=tmp_path) as process:
        wait_for(lambda: written(kafka, source) >= 30, DEADLINE, "letters put back")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert dlq(kafka.bootstrap, tmp_path, *arguments).code == 0
    odd = [one for one in made if one.offset % 2]
    assert by_partition(read_all(kafka.bootstrap, source)) == put_back(odd)
    assert dlq(kafka.bootstrap, tmp_path, "replay", letters).out == f"{letters}: 100 letters put back\n"
    values = Counter(message.value() for message in read_all(kafka.bootstrap, source))
    assert values == Counter(one.value for one in made)


def test_a_later_replay_fences_an_earlier_one(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    source = topic(PARTITIONS)
    letters = source + ".dlq"
    made = originals(source, 150)
    create_topic(kafka.bootstrap, letters, PARTITIONS)
    produce(kafka.bootstrap, letters, [one.letter() for one in made])
    with subprocess.Popen(
        command(kafka.bootstrap, "replay", letters, "--rate", "30/s"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as earlier:
        wait_for(lambda: written(kafka, source) >= 20, DEADLINE, "letters put back")
        earlier.send_signal(signal.SIGSTOP)
        said = dlq(kafka.bootstrap, tmp_path, "replay", letters)
        earlier.send_signal(signal.SIGCONT)
        out, err = earlier.communicate(timeout=DEADLINE)
    assert (said.code, said.err) == (0, ""), said
    assert earlier.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith(f"kworker: {letters}: another kworker dlq took over this topic"), err
    counts = [int(text.split()[1]) for text in (said.out, out)]
    assert sum(counts) == len(made), (said.out, out)
    assert by_partition(read_all(kafka.bootstrap, source)) == put_back(made)


def test_a_record_that_is_too_large_stays_and_the_others_are_put_back(
    kafka: Kafka, topic: MakeTopic, tmp_path: Path
) -> None:
    source = topic(1, {"max.message.bytes": "2000"})
    letters = source + ".dlq"
    create_topic(kafka.bootstrap, letters, 1)
    made = [Original(source, 0, n, b"k", random.randbytes(3_000) if n == 4 else b"%d" % n) for n in range(9)]
    produce(kafka.bootstrap, letters, [one.letter() for one in made])
    for count in (8, 0):
        said = dlq(kafka.bootstrap, tmp_path, "replay", letters)
        assert (said.code, said.out) == (1, f"{letters}: {count} letters put back\n"), said
        (line,) = said.err.splitlines()
        assert line.startswith(f"kworker: {letters}:0:4: it stays: the broker does not take it: "), said
    kept = [one for one in made if one.offset != 4]
    assert by_partition(read_all(kafka.bootstrap, source)) == put_back(kept)
