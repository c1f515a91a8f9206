"""Several worker processes on one machine, under one supervisor that starts, watches and shows them.

restarts.py    when the next one of a slot starts, or that none does
line.py        what supervisor and worker say to each other, over one socket
member.py      one worker process as the supervisor has it
supervised.py  the worker's side: what runs in that process
pages.py       all of them as one worker: metrics, health, status
supervisor.py  the loop
"""

from __future__ import annotations

from kworker.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
