"""The guard of the benchmark: the tree is slower only if it is worse than the commit by more than the noise."""

from __future__ import annotations

import pytest
from benchmarks.guard import judged

CALM = [(100.0, 101.0), (100.0, 99.0), (102.0, 101.0)]
NOISY = [(100.0, 101.0), (100.0, 60.0), (102.0, 101.0)]


@pytest.mark.parametrize(
    ("base", "tree", "direction", "slower"),
    [
        (CALM, 100, 1, False),
        (CALM, 90, 1, True),
        (CALM, 120, 1, False),
        (CALM, 120, -1, True),
        (CALM, 90, -1, False),
        (NOISY, 90, 1, False),
        (NOISY, 40, 1, True),
    ],
)
def test_slower_is_what_is_worse_beyond_the_noise(
    base: list[tuple[float, float]], tree: float, direction: int, slower: bool
) -> None:
    verdict = judged("x", direction, [(first, second, tree) for first, second in base])
    assert verdict.slower == slower, verdict


def test_one_bad_round_of_the_tree_is_no_verdict() -> None:
    rounds = [(100.0, 100.5, tree) for tree in (100.0, 20.0, 101.0)]
    assert not judged("x", 1, rounds).slower
