"""Schedules in the hands of the owner of a partition: what is published when, once, whoever writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.holding import HOUR, LOG, START, HoldingStage
from kworker.core.delayed import Answer, request
from kworker.core.scheduled import BARRIER, key_of, occurrence, record, standing
from kworker.kafka.transaction import Ousted
from kworker.schedules.misfire import Policy
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Cron, Every, Once
from kworker.task import Publication

NOW = START.wall / 1000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HoldingStage]:
    made = HoldingStage(tmp_path)
    yield made
    made.holding.cache.close()


def schedule(**given: object) -> Schedule:
    made: dict[str, object] = {"name": "tick", "task": "x", "trigger": Every(1.0), "topic": "orders", "most": 1000}
    return Schedule(**{**made, "misfire": Policy.ALL, **given})  # type: ignore[arg-type]  # what a test gives


DUE: dict[str, float] = {schedule().occurrence(NOW + n): n for n in range(-10, 8000)}
"""The id of each run, and when it is due, in seconds after the start."""


def add(stage: HoldingStage, planned: Schedule, now: float | None = None) -> int:
    """Somebody adds or replaces it; now: what that one's clock shows."""
    return stage.append(record(Standing.begin(planned, stage.wall / 1000 if now is None else now), LOG))


def runs(stage: HoldingStage) -> list[float]:
    """When what was published was due, in seconds after the start, in order."""
    return [DUE[id] for id in ids(stage)]


def ids(stage: HoldingStage) -> list[str]:
    """The ids of what was published, in order."""
    records = [record for batch in stage.batches for record in batch if record.topic == "orders"]
    return [(dict(record.headers)["ce_id"] or b"").decode() for record in records]


def stands(stage: HoldingStage, name: str = "tick") -> Standing | None:
    """What the log says of it when all but the newest record of each key is gone."""
    newest = {one.key(): one for one in stage.log}.get(key_of(name))
    return None if newest is None else standing(newest.key(), newest.value(), newest.headers() or [])


def test_a_run_and_the_renewal_go_in_one_batch_when_it_is_due(stage: HoldingStage) -> None:
    offset = add(stage, schedule(payload='{"a":1}', key="k"))
    stage.run()
    stage.pass_by(0.999)
    stage.run()
    assert stage.batches == []
    stage.pass_by(0.001)
    stage.run()
    (batch,) = stage.batches
    begun = Standing.begin(schedule(payload='{"a":1}', key="k"), NOW)
    assert batch == [occurrence(begun.schedule, NOW + 1), record(begun.fire(NOW + 1)[1], LOG, offset)]
    assert dict(batch[0].headers)["ce_id"] == b"tick@2027-01-15T08:00:01Z"
    assert stage.holding.cache.schedules.count == 1
    assert stage.metrics.snapshot()["kworker_schedule_runs_total"] == {(): [1.0]}


def test_it_does_not_fire_again_before_its_renewal_is_read(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    stage.pass_by(5)
    for _ in range(3):
        stage.holding.advance()
    assert len(stage.batches) == 1
    stage.pass_by(1)
    stage.run()
    assert runs(stage) == [1, 2, 3, 4, 5, 6]


def test_each_second_once_through_owners_that_die_anywhere(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    for second in range(1, 60):
        stage.pass_by(1)
        if second % 7 == 0:
            stage.ousted = True
            with pytest.raises(Ousted):
                stage.run()
            stage.ousted = False
            stage.holding.again(0)
        if second % 11 == 0:
            stage.rebuild()
        if second % 5:
            stage.run()
    stage.run()
    assert runs(stage) == list(range(1, 60))


def test_a_clock_that_is_far_ahead_for_a_moment_silences_nothing(stage: HoldingStage) -> None:
    add(stage, schedule(misfire=Policy.ALL, most=1000))
    stage.run()
    for _ in range(2):
        stage.wall += 1000 * 24 * HOUR
        stage.pass_by(300)
        stage.run()
        stage.wall -= 1000 * 24 * HOUR
        stage.run()
        assert runs(stage)[-1] == stage.steady // 1000 - START.steady // 1000
    assert runs(stage) == list(range(1, 601))


def test_a_clock_that_is_set_far_ahead_is_believed_when_it_stays_so(stage: HoldingStage) -> None:
    add(stage, schedule(misfire=Policy.ONCE))
    stage.run()
    stage.wall += 2 * 24 * HOUR
    for seconds in (300, 299.999):
        stage.pass_by(seconds)
        stage.run()
        assert ids(stage) == []
    stage.wall -= 30 * 24 * HOUR  # and far back, it decides of nothing
    stage.run()
    stage.wall += 30 * 24 * HOUR
    stage.pass_by(0)
    stage.run()
    assert ids(stage) == []
    stage.pass_by(600)
    stage.run()
    assert len(ids(stage)) == 1
    assert stage.holding.cache.schedules.overdue(*stage.clocks) == 0.0


@pytest.mark.parametrize(("policy", "published"), [(Policy.ONCE, 1), (Policy.ALL, 10), (Policy.SKIP, 61)])
def test_a_clock_that_is_set_forward_and_back_follows_the_policy(
    stage: HoldingStage, policy: Policy, published: int
) -> None:
    add(stage, schedule(misfire=policy, most=10))
    stage.run()
    stage.wall += HOUR
    stage.pass_by(0.999)
    stage.run()
    assert runs(stage) == []  # a second has not passed yet
    stage.pass_by(0.001)
    stage.run()
    assert runs(stage) == list(range(3601 - published + 1, 3602))
    assert stage.metrics.snapshot()["kworker_schedule_missed_total"] == {(): [1.0]}
    stage.wall -= HOUR
    stage.pass_by(1800)
    stage.run()
    stage.holding.again(0)  # both clocks are compared anew
    stage.run()
    assert len(runs(stage)) == published  # what the clock shows again was decided
    stage.pass_by(1801)
    stage.run()
    assert runs(stage)[published:] == [3602]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (datetime(2027, 3, 27, 12, tzinfo=UTC), ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]),  # 2:30 is skipped
        (datetime(2027, 10, 30, 12, tzinfo=UTC), ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]),  # 2:30 comes twice
    ],
)
def test_a_cron_is_run_once_a_night_also_when_the_clocks_change(
    stage: HoldingStage, day: datetime, expected: list[str]
) -> None:
    stage.wall = int(day.timestamp() * 1000)
    add(stage, schedule(trigger=Cron("30 2 * * *", "Europe/Berlin")))
    stage.run()
    for _ in range(4 * 40):
        stage.pass_by(900)
        stage.run()
    assert [id.partition("@")[2] for id in ids(stage)] == expected


def test_a_record_written_while_it_fired_counts_and_goes_on_where_it_was(stage: HoldingStage) -> None:
    """The pause lies before the renewal in the log: compaction would leave only the renewal."""
    add(stage, schedule())
    stage.run()
    stage.pass_by(1)
    add(stage, schedule(paused=True))  # not read yet by the owner, who fires
    stage.holding.advance()
    stage.run()
    stage.pass_by(60)
    stage.run()
    assert runs(stage) == [1]
    found = stands(stage)
    assert found is not None
    assert (found.schedule.paused, found.next, found.last, found.runs) == (True, None, NOW + 1, 1)
    add(stage, schedule(), now=NOW)  # resumed by somebody whose clock is behind
    stage.run()
    stage.pass_by(1)
    stage.run()
    assert runs(stage)[0] == 1
    assert len(set(runs(stage))) == len(runs(stage))


def test_a_schedule_that_is_applied_twice_publishes_each_time_once(stage: HoldingStage) -> None:
    """By two workers at once: the second one writes when the first time is due, or was published already."""
    add(stage, schedule())
    stage.run()
    stage.pass_by(1)
    add(stage, schedule())  # due now, not published yet: it still is
    stage.run()
    add(stage, schedule(), now=NOW)  # published already: it is not again
    add(stage, schedule(payload="[1]"), now=NOW + 0.5)
    stage.run()
    stage.pass_by(1)
    stage.run()
    assert runs(stage) == [1, 2]
    found = stands(stage)
    assert found is not None
    assert (found.schedule.payload, found.runs) == ("[1]", 2)


def test_what_was_written_while_it_fired_is_not_acted_on_before_all_is_read(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    stage.pass_by(1)
    add(stage, schedule(payload="1"), now=NOW)
    add(stage, schedule(payload="2"), now=NOW)
    stage.holding.advance()  # it fires, and has not read these
    stage.read_some(2)
    stage.holding.advance()  # it has read these, and not how far it got itself
    assert len(stage.batches) == 1
    stage.run()
    stage.pass_by(1)
    stage.run()
    assert runs(stage) == [1, 2]


def test_one_with_other_times_does_not_run_what_was_decided(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    stage.pass_by(10)
    stage.run()
    add(stage, schedule(trigger=Every(5.0)), now=NOW + 2)
    stage.run()
    stage.pass_by(5)
    stage.run()
    assert runs(stage) == [*range(1, 11), 15]


def test_removing_wins_or_loses_and_nothing_is_published_after_the_answer(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    stage.pass_by(1)
    stage.append(request(key_of("tick"), "1", LOG))
    stage.holding.advance()  # it fires, and has not read the request
    stage.read_some(1)
    stage.holding.advance()  # it has read the request, and not what it wrote itself
    assert stage.answers() == {}
    stage.run()
    assert (runs(stage), stage.answers()) == ([1], {b"cancel/1": Answer.CANCELLED})
    stage.pass_by(10)
    stage.rebuild()
    stage.run()
    stage.append(request(key_of("tick"), "2", LOG))
    stage.append(request(key_of("other"), "3", LOG))
    stage.append(request(BARRIER.encode(), "4", LOG))
    stage.run()
    assert list(stage.answers().values()) == [Answer.CANCELLED, Answer.CANCELLED, Answer.UNKNOWN, Answer.UNKNOWN]
    assert (runs(stage), stage.holding.cache.schedules.count, stands(stage)) == ([1], 0, None)


def test_one_that_is_added_again_while_it_is_removed_stands(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    stage.append(request(key_of("tick"), "1", LOG))
    stage.read()
    add(stage, schedule(trigger=Every(2.0)))  # not read when the removal is answered
    stage.holding.advance()
    stage.run()
    assert stage.answers() == {b"cancel/1": Answer.CANCELLED}
    stage.pass_by(2)
    stage.run()
    assert runs(stage) == [2]
    found = stands(stage)
    assert found is not None
    assert found.schedule.trigger == Every(2.0)


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_record_that_is_no_schedule_is_set_aside(stage: HoldingStage, value: bytes) -> None:
    stage.append(Publication(LOG, key_of("bad"), value, [("x", b"y")]))
    add(stage, schedule(name="bad2", task="_no"))
    add(stage, schedule(topic=LOG))
    add(stage, schedule(name="good", topic="orders"))
    stage.run()
    assert [letter.key for letter in stage.letters] == [key_of("bad"), key_of("bad2"), key_of("tick")]
    assert (stage.letters[0].value, stage.letters[0].headers[0]) == (value, ("x", b"y"))
    assert {dict(letter.headers)["kworker-reason"] for letter in stage.letters} == {b"undecodable"}
    assert (stage.holding.cache.schedules.count, stands(stage, "bad")) == (1, None)


NEWER = [
    b'{"schedule":{"name":"tick","task":"x","trigger":{"type":"every","interval":1.0},"color":1},"last":0,"next":1}',
    b'{"schedule":{"name":"tick","task":"x","trigger":{"type":"moon"}},"last":0,"next":1}',
    b'{"schedule":{"name":"tick","task":"x","trigger":{"type":"cron","expression":"0 3 * * *","tz":"Moon/Base"}},'
    b'"last":0,"next":1}',
]


@pytest.mark.parametrize("value", NEWER)
def test_one_that_only_newer_workers_can_read_is_kept_for_them_and_told_once(
    stage: HoldingStage, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stage.append(Publication(LOG, key_of("tick"), value, [("x", b"y")]))
    add(stage, schedule(name="good"))
    stage.run()
    stage.pass_by(100 * HOUR / 1000)
    stage.run()
    assert stage.letters == []
    assert {one.key(): one.value() for one in stage.log}[key_of("tick")] == value
    assert [stage.holding.look(), stage.holding.look()] == [1, 1]
    assert [record.message[:24] for record in caplog.records if record.levelname == "ERROR"] == [
        "a schedule waits for a w"
    ]
    stage.append(request(key_of("tick"), "token", LOG))
    stage.run()
    assert stage.answers() == {b"cancel/token": Answer.CANCELLED}
    assert stage.holding.look() == 0


def test_one_that_only_newer_workers_can_read_outlives_a_renewal_of_the_one_before(stage: HoldingStage) -> None:
    add(stage, schedule())
    stage.run()
    newer = stage.append(Publication(LOG, key_of("tick"), NEWER[0], [("kworker-entry", b"0"), ("x", b"y")]))
    stage.pass_by(1)
    stage.holding.advance()  # it fires before it has read that
    assert runs(stage) == [1]
    stage.run()
    last = {one.key(): one for one in stage.log}[key_of("tick")]
    assert (last.value(), last.headers()) == (NEWER[0], [("x", b"y"), ("kworker-entry", b"%d" % newer)])
    count = len(stage.log)
    stage.rebuild()
    stage.run()
    assert (len(stage.log), stage.holding.look()) == (count, 1)


def test_a_task_of_a_group_that_is_called_like_schedules_is_a_task(stage: HoldingStage) -> None:
    stage.wait("kworker-schedule/topic/0/5", 0)
    stage.run()
    assert stage.handed == ["kworker-schedule/topic/0/5"]
    with pytest.raises(ValueError, match="schedules are there"):
        stage.wait("kworker-schedule/nightly", 0)


def test_a_missing_topic_holds_up_nobody_and_the_schedule_goes_on_when_it_is_there(stage: HoldingStage) -> None:
    stage.away = {"orders"}
    add(stage, schedule(misfire=Policy.ONCE))
    add(stage, schedule(name="other", topic="bills"))
    stage.run()
    for _ in range(6):
        stage.pass_by(64)
        stage.run()
    clocks = stage.clocks
    assert runs(stage) == []
    assert stage.holding.cache.schedules.overdue(*clocks) == pytest.approx(6 * 64 - 1)
    assert {record.topic for batch in stage.batches for record in batch} == {"bills", LOG}
    stage.away = set()
    stage.pass_by(64)
    stage.run()
    assert runs(stage) == [7 * 64]
    assert stage.holding.cache.schedules.overdue(*stage.clocks) == 0.0


def test_one_that_ran_once_stays_and_is_not_run_again_when_it_is_applied_again(stage: HoldingStage) -> None:
    once = schedule(trigger=Once(NOW + 1))
    add(stage, once)
    stage.run()
    stage.pass_by(1)
    stage.run()
    add(stage, once, now=NOW)
    add(stage, schedule(trigger=Once(NOW + 1), payload="1"), now=NOW)
    stage.run()
    stage.pass_by(5)
    stage.run()
    assert runs(stage) == [1]
    found = stands(stage)
    assert found is not None
    assert (found.next, found.ran, found.runs) == (None, NOW + 1, 1)


def test_many_runs_of_a_large_payload_go_in_bounded_batches(stage: HoldingStage) -> None:
    add(stage, schedule(payload='"' + "x" * 500_000 + '"'))
    stage.run()
    stage.pass_by(30)
    stage.run()
    assert runs(stage) == list(range(1, 31))
    sizes = [sum(len(record.value or b"") for record in batch) for batch in stage.batches]
    assert len(sizes) > 1
    assert max(sizes) < 6 << 20


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "pause", "other", "rm", "pass", "run", "fire", "read", "die", "lose"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_is_written_meanwhile_no_time_is_published_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Clocks of those who write are behind by up to three seconds; owners die; the log is read anew."""
    stage = HoldingStage(tmp_path_factory.mktemp("roster"))
    removed = False
    stage.run()
    for step, number in steps:
        now = max(NOW - 5, stage.wall / 1000 - number)
        if step == "add" and not removed:
            add(stage, schedule(payload=str(number)), now)
        elif step == "pause" and not removed:
            add(stage, schedule(paused=True), now)
        elif step == "other" and not removed:
            add(stage, schedule(trigger=Every(2.0)), now)
        elif step == "rm" and number == 3:
            removed = True
            stage.append(request(key_of("tick"), f"{len(stage.log)}", LOG))
        elif step == "pass":
            stage.pass_by(number + 0.5)
        elif step == "run":
            stage.run()
        elif step == "fire":
            stage.holding.advance()
        elif step == "read":
            stage.read_some(number)
        elif step == "die":
            stage.holding.again(0)
        elif step == "lose":
            stage.rebuild()
    stage.run()
    found = runs(stage)
    assert found == sorted(set(found))
    count = len(found)
    if removed:
        assert Answer.CANCELLED in stage.answers().values() or count == 0
        stage.pass_by(10)
        stage.run()
        assert len(runs(stage)) == count
    stage.holding.cache.close()
