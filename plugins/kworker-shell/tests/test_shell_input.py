"""A command gets its whole input, whatever happens to the worker that gives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kit import wait_for

SIZE = 1_000_000  # more than a pipe holds
RUN = """
import sys
from kworker_shell import process
process.run(
    ["sh", "-c", "echo > started; read line < resume; wc -c > part; mv part counted"],
    program="/bin/sh", stdin=b"x" * int(sys.argv[1]), cwd=sys.argv[2], env={"PATH": "/usr/bin:/bin"},
    limit=100, seconds=60, grace=1, cancelled=lambda: False,
)
"""


def test_a_command_whose_worker_is_killed_reads_its_input_to_the_end(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", tmp_path / "resume"], check=True)
    with subprocess.Popen([sys.executable, "-c", RUN, str(SIZE), str(tmp_path)]) as worker:
        try:
            wait_for((tmp_path / "started").exists, 30, "the command to start")
        finally:
            worker.kill()
    (tmp_path / "resume").write_text("\n")
    counted = tmp_path / "counted"
    wait_for(counted.exists, 30, "the command to end")
    assert int(counted.read_text()) == SIZE
