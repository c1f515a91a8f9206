"""The engine keeps its promises whatever happens to it, in each order: see engine_machine.py."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from kworker.core import mark
from property.engine_machine import MACHINES, PROFILE


@pytest.mark.timeout(0)  # KWORKER_EXAMPLES decides how long it searches
@pytest.mark.parametrize("order", MACHINES)
def test_no_order_of_events_breaks_a_promise(order: str) -> None:
    run_state_machine_as_test(MACHINES[order], settings=PROFILE)


@pytest.mark.timeout(0)  # as above
@pytest.mark.parametrize("order", MACHINES)
def test_nor_does_one_when_suspects_run_in_parts(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logs here are short: what is done with hundreds of suspects is done with two."""
    monkeypatch.setattr(mark, "FEW", 1)
    monkeypatch.setattr(mark, "PARTS", 2)
    run_state_machine_as_test(MACHINES[order], settings=PROFILE)
