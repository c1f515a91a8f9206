"""What child processes say and print, made into reports and log lines.

Owns: how long the tasks of each name take, as told by the reports, which decides how many may travel together.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Mapping

from kworker.core.entry import Entry
from kworker.executors.base import Runnable, overdue
from kworker.executors.child import TOLD
from kworker.executors.children import Child
from kworker.executors.messages import RESERVED, Broken, Ended, Line, Ready, Reports, Successes
from kworker.mailbox import Mailbox
from kworker.task import SUCCESS, Crashed, ErrorInfo, Failed, Outcome, TimedOut

log = logging.getLogger(__name__)
_printed = logging.getLogger("kworker.output")

_READS = 16
_WEIGHT = 1 / 8
_UNKNOWN = 0.1  # seconds to begin with: some twenty tasks of a name must be quick before they travel together


class Hearing:
    """See the module. `costs`: seconds that tasks of a name take, a moving average."""

    def __init__(self, runnables: Mapping[str, Runnable], mailbox: Mailbox) -> None:
        self.costs: dict[str, float] = {}
        self._runnables = runnables
        self._mailbox = mailbox

    def timeout(self, entry: Entry) -> float:
        """Seconds it may take; 0 is any time."""
        return self._runnables[entry.task.name].spec.timeout

    def converse(self, child: Child, *, all: bool = False) -> None:
        """Take what a child has said by now, and send it what is left to send. Without `all` others have their turn."""
        child.send()
        for message in child.receive(all=all):
            if isinstance(message, Reports):
                self._take_reports(child, message)
            elif isinstance(message, Line):
                _write(message, child)
            elif isinstance(message, Ready):
                child.ready = True
            elif isinstance(message, Broken):
                child.broken = message.why

    def listen(self, child: Child) -> None:
        """Log what a child has printed; of a flood some, and the rest the next time."""
        for _ in range(_READS):
            data = child.read_output()
            if not data:
                return
            entry = child.entries[0][1] if child.entries else None
            if entry is not None:
                self.costs[entry.task.name] = math.inf  # who prints runs alone, or it would not be known who did
            for text in child.output.feed(data):
                _print(child, entry, text)

    def overhear(self, output: int) -> bool:
        """Log what the template has printed; False when nobody can any more."""
        try:
            text = os.read(output, 1 << 16).decode("utf-8", "backslashreplace")
        except BlockingIOError:
            return True
        for line in text.splitlines():
            _printed.warning("%s", line, extra={"slot": "template"})
        return bool(text)

    def load(self, child: Child, now: float) -> float:
        """Seconds of work that a child has in its hands, as far as is known: no less than since it last moved."""
        if not child.entries:
            return 0.0
        name = child.entries[0][1].task.name
        return max(len(child.entries) * self.costs.get(name, math.inf), now - child.progress)

    def settle(self, child: Child) -> None:
        """After `take_back`: all that has begun but the last has ended, as plain successes if there is no report."""
        self.converse(child, all=True)
        while len(child.entries) > 1:
            self.report(child, SUCCESS)

    def report(self, child: Child, outcome: Outcome) -> None:
        """Report the first of what a child has, which it did not do itself."""
        number, entry = child.entries[0]
        child.reported(number)
        self._mailbox.report((entry, entry.run, outcome, child.progress, time.monotonic()))

    def report_unbegun(self, entry: Entry, outcome: Outcome) -> None:
        """Report what no child has begun."""
        now = time.monotonic()
        self._mailbox.report((entry, entry.run, outcome, now, now))

    def cut_short(self, child: Child, code: int) -> Outcome:
        """What has become of the task that ran in a child which ended. code: its exit code, or minus the signal."""
        self.listen(child)
        if child.told == "timeout":
            return overdue(self.timeout(child.entries[0][1]), "was killed")
        if child.told:
            return Failed(ErrorInfo("cancelled", "it was killed: its partition went to another worker"))
        if child.nonsense:
            return Crashed(ErrorInfo("crash", f"its process said what it should not: {child.nonsense}"))
        tail = child.output.tail.decode("utf-8", "backslashreplace")
        return Crashed(ErrorInfo("crash", f"its process {how(code)}", tail))

    def _take_reports(self, child: Child, message: Reports) -> None:
        # Order: what it has printed until it said this, while it is known by which task.
        self.listen(child)
        for ended in message.ended:
            if isinstance(ended, Successes):
                self._take_ended(child, ended.number, ended.since, ended.ended, None)
            else:
                self._take_ended(child, ended.number, ended.since, [ended.ended], ended)
        child.finished |= message.last

    def _take_ended(self, child: Child, number: int, since: float, times: list[float], judged: Ended | None) -> None:
        """Report attempts that ended at these times, one after the other from `since` on; judged: or the only one."""
        entries = child.reported(number, len(times))
        if not entries:
            return  # settled already
        if child.output.used:
            for text in child.output.end():
                _print(child, entries[0], text)
        if len(entries) < len(times):  # the first ones are settled
            since, times = times[-len(entries) - 1], times[-len(entries) :]
        costs, reports = self.costs, []
        outcome = SUCCESS if judged is None else self._judge(child, entries[0], judged)
        for entry, ended in zip(entries, times, strict=True):
            reports.append((entry, entry.run, outcome, since, ended))
            name = entry.task.name
            costs[name] = costs.get(name, _UNKNOWN) * (1 - _WEIGHT) + (ended - since) * _WEIGHT  # infinity stays
            since = ended
        child.progress = since
        self._mailbox.report_all(reports)

    def _judge(self, child: Child, entry: Entry, ended: Ended) -> Outcome:
        """What came too late has timed out, as in a thread."""
        outcome = ended.outcome
        if not isinstance(outcome, Failed):
            return outcome
        timeout, stack = self.timeout(entry), outcome.error.stack
        if outcome.error.type == TOLD:
            if child.told == "timeout":
                return overdue(timeout, "was ended", stack)
            return Failed(ErrorInfo("cancelled", "its partition went to another worker", stack))
        return TimedOut(outcome.error) if timeout and ended.ended - ended.since > timeout else outcome


def how(code: int) -> str:
    """How a process ended. code: its exit code, or minus the signal."""
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    hint = {"SIGKILL": " (out of memory?)", "SIGXCPU": " (its processor time was used up)"}.get(name, "")
    return f"was killed by {name}{hint}"


def _print(child: Child, entry: Entry | None, text: str) -> None:
    fields = {"task": entry.task.name, "id": entry.task.id} if entry is not None else {}
    _printed.info("%s", text, extra={**fields, "slot": child.slot})


def _write(line: Line, child: Child) -> None:
    """Write a line of a child to the log of this process."""
    fields = {name: value for name, value in line.fields.items() if name not in RESERVED}
    logging.getLogger(line.logger).log(line.level, "%s", line.text, extra={**fields, "slot": child.slot})
