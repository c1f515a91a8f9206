"""The ledger of the fault tests finds what it is there to find, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.commits import Sample
from kit.ledger import Ledger
from kworker.core.metadata import Intervals


class Story:
    """A ledger written by hand: partition 0, offset n = task "n", time counts up by one a line."""

    def __init__(self, folder: Path, tasks: int = 3) -> None:
        self.ledger = Ledger(folder / "ledger")
        self.ledger.places = {f"{n}": (0, n) for n in range(tasks)}
        self.now = 0
        self._numbers = 0

    def start(self, task: int, pid: int = 1, attempt: int = 1, key: str = "k") -> tuple[int, int]:
        self._numbers += 1
        self._write("start", self._numbers, f"{task}", attempt, key, task, pid)
        return self._numbers, pid

    def end(self, run: tuple[int, int], outcome: str = "done") -> None:
        self._write("end", run[0], outcome, run[1])

    def ran(self, *tasks: int, pid: int = 1, outcome: str = "done") -> None:
        for task in tasks:
            self.end(self.start(task, pid), outcome)

    def sample(self, offset: int, *bounds: int) -> Sample:
        self.now += 1
        return Sample(self.now, self.now, {0: (offset, Intervals(bounds))})

    def _write(self, *line: object) -> None:
        self.now += 1
        with self.ledger.path.open("a") as file:
            file.write(json.dumps([*line, self.now]) + "\n")
        self.ledger.read()


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_half_a_line_is_read_when_it_is_whole(story: Story) -> None:
    line = json.dumps(["start", 1, "0", 1, "k", 0, 1, 5]).encode() + b"\n"
    story.ledger.path.write_bytes(line[:9])
    story.ledger.read()
    assert story.ledger.runs == []
    story.ledger.path.write_bytes(line)
    story.ledger.read()
    assert [run.id for run in story.ledger.runs] == ["0"]


def test_lost_is_what_neither_succeeded_nor_has_a_dead_letter(story: Story) -> None:
    story.ran(0)
    story.ran(1, outcome="dead")
    story.start(2)
    assert story.ledger.lost(set()) == {"1", "2"}
    assert story.ledger.lost({"1"}) == {"2"}


def test_a_repeat_follows_a_success_or_what_was_cut_short_but_not_a_failure(story: Story) -> None:
    story.ran(0, outcome="failed")
    story.ran(0)
    assert not story.ledger.repeats()
    story.ran(0, pid=2)
    story.start(1)
    story.ran(1, pid=2)
    assert story.ledger.repeats() == {"0": 1, "1": 1}
    assert story.ledger.unexpected([{"0", "1"}]) == {}
    assert story.ledger.unexpected([{"0"}, {"0", "2"}]) == {"1": 1}


def test_exposed_is_what_was_started_and_is_not_committed(story: Story) -> None:
    story.ran(0, 1)
    story.ran(2, pid=2)
    assert story.ledger.exposed(story.sample(0, 1, 2), {1}) == {"0"}
    assert story.ledger.exposed(story.sample(1), {1, 2}) == {"1", "2"}


def test_order_is_kept_by_retries_and_by_what_a_killed_worker_had_not_committed(story: Story) -> None:
    story.ran(0)
    story.ran(1, outcome="failed")
    story.ran(1)
    story.start(2)
    killed = {1: story.now + 1}
    story.now += 1
    story.ran(1, 2, pid=2)
    story.end(story.start(0, key="another"))
    assert story.ledger.disorder(killed) == []


def test_order_is_broken_by_going_back_by_running_again_and_by_running_at_once(story: Story) -> None:
    story.ran(1, 0)
    assert [what.split(":")[0] for what in story.ledger.disorder({})] == ["back"]
    story.ran(0)
    assert [what.split(":")[0] for what in story.ledger.disorder({})] == ["back", "again"]
    first = story.start(1)
    second = story.start(2, pid=2)
    story.end(first)
    story.end(second)
    assert [what.split(":")[0] for what in story.ledger.disorder({})] == ["back", "again", "at once"]


def test_commits_may_pass_what_is_over_and_what_is_no_record(story: Story) -> None:
    samples = [story.sample(0)]
    story.ran(1)
    samples.append(story.sample(0, 1, 2))
    story.ran(0, outcome="dead")
    story.ran(2)
    samples += [story.sample(2, 2, 3), story.sample(5)]
    assert story.ledger.bad_commits(samples) == []


@pytest.mark.parametrize(
    ("commits", "verdict"),
    [
        ([(2,), (1,)], "fell"),
        ([(3,)], "passed"),
        ([(0, 2, 3)], "passed"),
        ([(0, 1, 2), (0,)], "forgot"),
        ([(0, 1, 2), (1,)], "forgot"),
    ],
)
def test_a_commit_that_fell_passed_or_forgot_is_found(
    story: Story, commits: list[tuple[int, ...]], verdict: str
) -> None:
    story.ran(0, 1)
    samples = [story.sample(*commit) for commit in commits]
    story.ran(2)
    assert [what.split(":")[0] for what in story.ledger.bad_commits(samples)] == [verdict]
