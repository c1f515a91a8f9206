"""A partition of the delay log in the hands of its owner: what it hands over, when, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.holding import HOUR, LOG, HoldingStage
from kworker.core.delayed import Answer, Outcome, request, tombstone
from kworker.kafka.transaction import Ousted
from kworker.task import Publication
from kworker.timekeeper.holding import MOST_TRIES


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HoldingStage]:
    made = HoldingStage(tmp_path)
    yield made
    made.holding.cache.close()


def test_a_task_and_its_tombstone_go_in_one_batch_when_it_is_due(stage: HoldingStage) -> None:
    offset = stage.wait("a", 10)
    stage.run()
    assert stage.holding.ready
    stage.pass_by(9.999)
    stage.run()
    assert stage.batches == []
    stage.pass_by(0.001)
    stage.run()
    (batch,) = stage.batches
    assert batch == [
        Publication("orders", b"k", b"{}", [("task", b"a")]),
        tombstone(b"a", offset, Outcome.HANDED_OVER, LOG),
    ]
    assert stage.holding.cache.pending == 0


def test_nothing_is_handed_over_before_the_log_was_read_to_its_end(stage: HoldingStage) -> None:
    stage.wait("a", -5)
    assert stage.holding.advance() is False
    assert (stage.started, stage.batches) == (1, [])
    stage.append(tombstone(b"a", 0, Outcome.HANDED_OVER, LOG))  # of an earlier owner
    stage.run()
    assert (stage.holding.ready, stage.handed) == (True, [])


def test_a_clock_that_is_set_forward_and_back_makes_nothing_early(stage: HoldingStage) -> None:
    stage.wait("a", 1800)
    stage.run()
    stage.wall += HOUR
    stage.run()
    assert stage.handed == []
    stage.wait("b", 10)  # published by the new clock
    stage.pass_by(10)
    stage.run()
    assert stage.handed == ["b"]
    stage.wall -= HOUR
    stage.pass_by(1789)
    stage.run()
    assert stage.handed == ["b"]
    stage.pass_by(1)
    stage.run()
    assert stage.handed == ["b", "a"]


def test_a_clock_that_is_set_back_makes_nothing_early_by_the_wall_clock(stage: HoldingStage) -> None:
    stage.wait("a", 10)
    stage.run()
    stage.wall -= HOUR
    stage.pass_by(20)
    stage.run()
    assert stage.handed == []
    stage.pass_by(3590)
    stage.run()
    assert stage.handed == ["a"]


def test_after_a_new_take_over_the_clock_is_believed(stage: HoldingStage) -> None:
    stage.wait("a", 1800)
    stage.run()
    stage.wall += HOUR
    stage.holding.again(0)
    stage.run()
    assert stage.handed == ["a"]


def test_who_is_fenced_hands_nothing_over_until_it_has_read_what_the_other_did(stage: HoldingStage) -> None:
    stage.wait("a", 5)
    stage.wait("b", 5)
    stage.run()
    stage.pass_by(5)
    stage.ousted = True
    with pytest.raises(Ousted):
        stage.run()
    stage.holding.again(0)
    assert not stage.holding.ready
    stage.ousted = False
    stage.append(tombstone(b"a", 0, Outcome.HANDED_OVER, LOG))
    stage.run()
    assert (stage.started, stage.handed) == (2, ["b"])


def test_a_missing_target_holds_up_nobody_and_comes_back_or_is_set_aside(stage: HoldingStage) -> None:
    stage.away = {"gone", "late"}
    for id, target in (("a", "gone"), ("b", "late"), ("c", "orders")):
        stage.wait(id, 0, target)
    stage.run()
    assert stage.handed == ["c"]
    stage.away = {"gone"}
    for _ in range(MOST_TRIES):
        stage.pass_by(64)
        stage.run()
    assert stage.handed == ["c", "b"]
    (letter,) = stage.letters
    found = dict(letter.headers)
    assert (letter.key, found["kworker-reason"], found["kworker-origin"]) == (b"a", b"rejected", b"kworker.delayed/3/0")
    assert stage.holding.cache.pending == 0


def test_a_record_that_is_too_large_is_tried_alone_and_then_set_aside(stage: HoldingStage) -> None:
    for n in range(5):
        stage.wait(f"{n}", n / 1000, value=b"huge" if n == 2 else b"{}")
    stage.run()
    stage.pass_by(1)
    stage.run()
    assert stage.handed == ["0", "1", "3", "4"]
    for _ in range(MOST_TRIES):
        stage.pass_by(64)
        stage.wait("beside", 0)
        stage.run()
    assert stage.refusals == MOST_TRIES + 1
    # The dead letter has the same value, which the broker of this test does not take either: it goes on waiting.
    assert (stage.letters, stage.holding.cache.pending) == ([], 1)
    assert stage.handed.count("beside") == MOST_TRIES


@pytest.mark.parametrize("due", [b"nan", b"-1", b"1e3", b"9999999999999999"])
def test_what_cannot_be_read_is_set_aside_at_once(stage: HoldingStage, due: bytes) -> None:
    stage.append(Publication(LOG, b"bad", b"{}", [("kworker-target", b"orders"), ("kworker-due", due)]))
    stage.wait("a", 0)
    stage.run()
    (letter,) = stage.letters
    assert dict(letter.headers)["kworker-reason"] == b"undecodable"
    assert letter.headers[:2] == [("kworker-target", b"orders"), ("kworker-due", due)]
    assert stage.handed == ["a"]


def test_without_a_topic_for_dead_letters_it_waits_for_one(stage: HoldingStage) -> None:
    stage.away = {f"{LOG}.dlq"}
    stage.append(Publication(LOG, b"bad", b"{}", []))
    stage.wait("a", 0)
    stage.run()
    assert (stage.letters, stage.handed) == ([], ["a"])
    stage.away = set()
    stage.pass_by(30)
    stage.run()
    assert len(stage.letters) == 1


def test_cancelling_wins_or_loses_and_says_so(stage: HoldingStage) -> None:
    stage.wait("early", 0)
    stage.wait("waits", 10)
    stage.run()
    for token, id in (("1", b"early"), ("2", b"waits"), ("3", b"never"), ("4", b"waits")):
        stage.append(request(id, token, LOG))
    stage.run()
    assert list(stage.answers().values()) == [Answer.TOO_LATE, Answer.CANCELLED, Answer.UNKNOWN, Answer.CANCELLED]
    stage.append(request(b"waits", "5", LOG))
    stage.run()
    assert stage.answers()[b"cancel/5"] is Answer.CANCELLED
    stage.pass_by(10)
    stage.run()
    assert stage.handed == ["early"]


def test_a_request_that_waited_for_an_owner_is_answered_before_anything_is_handed_over(stage: HoldingStage) -> None:
    stage.wait("a", -60)
    stage.append(request(b"a", "1", LOG))
    stage.run()
    assert (stage.handed, stage.answers()) == ([], {b"cancel/1": Answer.CANCELLED})


def test_what_a_tombstone_does_not_mean_is_written_again_and_handed_over_once(stage: HoldingStage) -> None:
    stage.wait("a", 1)
    stage.run()
    stage.pass_by(1)
    stage.wait("a", 5)  # rescheduled while the owner hands the first one over
    assert stage.holding.advance()
    stage.run()
    assert stage.handed == ["a"]
    assert stage.log[-1].value() is not None
    stage.pass_by(5)
    stage.run()
    assert stage.handed == ["a", "a"]
    stage.run()
    assert stage.holding.cache.pending == 0


def test_a_log_that_is_another_one_is_read_anew(stage: HoldingStage) -> None:
    stage.wait("a", 10)
    stage.run()
    stage.identity = "id-2"
    stage.holding.again(0)
    stage.holding.advance()
    assert (stage.holding.gap, stage.holding.ready) == (True, False)


def test_a_log_whose_start_passed_what_was_read_is_read_anew(stage: HoldingStage) -> None:
    stage.wait("a", 10)
    stage.run()
    stage.low = 9
    stage.holding.again(0)
    stage.holding.advance()
    assert stage.holding.gap


def test_a_gap_that_is_known_before_the_partition_is_taken_over_stays(stage: HoldingStage) -> None:
    stage.wait("a", 5)
    stage.holding.gap = True
    stage.run()
    assert (stage.holding.gap, stage.holding.ready) == (True, False)
    stage.rebuild()
    stage.holding.gap = False
    stage.run()
    stage.pass_by(6)
    stage.run()
    assert stage.handed == ["a"]
