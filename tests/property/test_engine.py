"""The engine keeps its promises whatever happens to it, in each order: see engine_machine.py."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from property.engine_machine import MACHINES, PROFILE


@pytest.mark.timeout(0)  # KWORKER_EXAMPLES decides how long it searches
@pytest.mark.parametrize("order", MACHINES)
def test_no_order_of_events_breaks_a_promise(order: str) -> None:
    run_state_machine_as_test(MACHINES[order], settings=PROFILE)
