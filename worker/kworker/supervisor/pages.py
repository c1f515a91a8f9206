"""All workers of a supervisor as one: the pages of its admin port. Reads what the supervisor's loop owns."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from kworker.bulletin import Snapshot
from kworker.config import Config
from kworker.metrics import merge, page, process_snapshot
from kworker.supervisor.member import BOOT, Member
from kworker.version import __version__


class Pages:
    """See the module. `moved` and `stopping` are written by the loop; limit: seconds it may stand still."""

    def __init__(self, config: Config, members: Sequence[Member], limit: float) -> None:
        self.moved = time.monotonic()
        self.stopping = False
        self._config = config
        self._members = members
        self._limit = limit

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics page: the numbers of all workers merged, those of ended ones kept."""
        return page(self.snapshot(), accept)

    def snapshot(self) -> Snapshot:
        """The metrics of all, by the rules of the table."""
        known = [member.known for member in self._members]
        running = sum(member.process is not None for member in self._members)
        again = sum(max(0, member.starts - 1) for member in self._members)
        own: Snapshot = {
            "kworker_workers": {(): [float(running)]},
            "kworker_worker_restarts_total": {(): [float(again)]},
        }
        told = [one.told.metrics for one in known if one.told is not None]
        return merge([*(one.past for one in known), *told, own, process_snapshot()])

    def live(self) -> dict[str, str]:
        """Why all should be restarted. A worker that died is not a reason: it is being started again."""
        now = time.monotonic()
        silence = now - self.moved
        checks = {"supervisor": f"supervisor: did not move for {silence:.1f} s" if silence > self._limit else ""}
        for member in self._members:
            quiet = now - member.heard_at
            stuck = member.process is not None and quiet > BOOT + 2 * self._limit
            name = f"worker {member.number}"
            checks[name] = f"{name}: not heard for {quiet:.1f} s, and not ended" if stuck else ""
        return checks

    def ready(self) -> dict[str, str]:
        """Why no worker is ready; one that is ready is enough, the others are named."""
        if self.stopping:
            return {"stopping": "stopping"}
        found = {f"worker {member.number}": member.unready() for member in self._members}
        reasons = [f"{name} ({'; '.join(why)})" for name, why in found.items() if why]
        told = f"{len(found) - len(reasons)} of {len(found)} workers are ready"
        if reasons:
            told += f", not {', '.join(reasons)}"
        return {told: told if len(reasons) == len(found) else ""}

    def status(self) -> dict[str, object]:
        """The status page."""
        now = time.monotonic()
        return {
            "version": __version__,
            "group": self._config.group,
            "topics": list(self._config.topics),
            "bootstrap": self._config.bootstrap,
            "pid": os.getpid(),
            "live": [reason for reason in self.live().values() if reason],
            "ready": [reason for reason in self.ready().values() if reason],
            "workers": [member.described(now) for member in self._members],
        }
