"""Whether a worker may have the address space that its threads take."""

from __future__ import annotations

import resource

import pytest

from kworker.process import space

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "stack", "tasks", "need"),
    [
        (resource.RLIM_INFINITY, 8, 10_000, None),
        (1344, 8, 0, None),
        (1343, 8, 0, 1344),
        (1855, 8, 64, 1856),
        (1343, 1, 0, None),
        (1343, resource.RLIM_INFINITY, 0, 1344),
    ],
)
def test_the_limit_is_held_against_what_threads_take(
    limit: int, stack: int, tasks: int, need: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {resource.RLIMIT_AS: limit, resource.RLIMIT_STACK: stack}
    soft = {kind: one if one == resource.RLIM_INFINITY else one * MIB for kind, one in given.items()}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft[kind], resource.RLIM_INFINITY))
    why = space.refusal(tasks)
    assert bool(why) is (need is not None)
    assert need is None or f"is {limit:,} MiB, and the threads of a worker take up to {need:,} MiB of it" in why
