"""What the tests of faults share: a worker with the misbehaving plugin, and what that plugin noted."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim_worker import WorkerProcess

PLUGIN = Path(__file__).parent / "plugin"


class Calls:
    """What the tasks of faults_plugin noted: (task, attempt, detail) each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[str, int, Any]]:
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        fields = [line.split("\t") for line in lines]
        return [(task, int(attempt), ast.literal_eval(detail)) for task, attempt, detail in fields]


StartWorker = Callable[..., WorkerProcess]
