"""Must hold: a task that does not end holds up none behind it, and a kill does not make those run again."""

from __future__ import annotations

from pathlib import Path

from kit import Kafka
from kit.trial import Trial, Work
from kworker.core.metadata import Intervals

BEHIND = 20_000


def test_20000_tasks_pass_a_slow_head_and_survive_kills_without_a_second_run(kafka: Kafka, tmp_path: Path) -> None:
    """The head is unfinished during all of it, until the test lets it go. One partition: the rest is behind it."""
    gate = tmp_path / "the head may end"
    with Trial(tmp_path, kafka.bootstrap) as trial:
        trial.publish([Work("head", until=str(gate)), *(Work(f"a{n}", ms=5) for n in range(BEHIND // 2))])
        assert trial.ledger.places["head"] == (0, 0)
        worker = trial.start()

        # The first half finishes, and is committed as finished above an offset that does not move.
        sample = trial.wait_held(BEHIND // 2)
        assert sample.committed[0][0] == 0
        assert not sample.holds(0, 0)

        # Killed in the middle of the second half.
        trial.publish(Work(f"b{n}", ms=5) for n in range(BEHIND // 2))
        trial.wait_over(BEHIND // 4 * 3)
        cut = trial.kill(worker)
        assert "head" in cut
        assert not any(id.startswith("a") for id in cut)

        # All others finish in the next worker, while the head runs again there; only what was cut did so, too.
        worker = trial.start()
        trial.wait(lambda: trial.ledger.repeats()["head"] == 1, "the second run of the head")
        trial.wait_held(BEHIND)
        assert trial.ledger.places.keys() - trial.ledger.done.keys() == {"head"}
        before = trial.ledger.repeats()
        assert before.keys() <= cut

        # Killed when all of them are committed: the head alone runs again.
        assert trial.kill(worker) == {"head"}
        trial.start()
        trial.wait(lambda: trial.ledger.repeats()["head"] == 2, "the third run of the head")
        gate.touch()
        trial.finish()
        assert trial.ledger.repeats() - before == {"head": 1}
        assert trial.commits.last.committed[0] == (BEHIND + 1, Intervals())
