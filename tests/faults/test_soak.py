"""FAULTS.md "Faults" 2 and 41: all faults at random for a while, and at the end nothing is lost, twice or left over.

About two minutes, half of it under faults, unless MINUTES says otherwise (`make soak MINUTES=30`); one half of the time
unordered, the other in the order of keys.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.storm import seeded
from kit import Broker
from kit.vitals import Vitals
from kit.weather import Weather
from kit.weather_report import Report, finished

MINUTES = float(os.environ.get("MINUTES") or 2)
LONGEST_ROUND = 300.0
"""Seconds of one round: its ledger is checked at its end."""

ROUNDS = max(2, round(MINUTES * 60 / LONGEST_ROUND))
AROUND = 25.0
"""Seconds of a round before its first fault and after its last."""


@pytest.mark.timeout(MINUTES * 60 + ROUNDS * 300)
def test_fault_41_all_faults_at_random(tmp_path: Path) -> None:
    chance = seeded()
    reports: list[Report] = []
    with Broker() as broker:
        for number in range(ROUNDS):
            order = ("unordered", "key")[number % 2]
            with Weather(tmp_path / f"{number}", broker, order, chance) as weather:
                weather.start().wait_ready()
                weather.top_up(400)
                weather.calm()
                weather.wait(lambda weather=weather: not weather.lag(), "a lag of 0")  # type: ignore[misc]  # its default
                base = Vitals.of(weather.living[0])
                weather.join()
                weather.storm(MINUTES * 60 / ROUNDS - AROUND)
                reports.append(finished(weather, base))
                for worker in weather.living:
                    worker.terminate()
                    assert worker.wait() == 0
    print("\n".join(map(str, reports)))
    assert all(report.faults for report in reports)
