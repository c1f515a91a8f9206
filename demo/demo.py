"""`make demo`: thousands of real tasks, two workers, one killed with -9 in the middle, and a count of what came of it.

Nothing but Python is needed: the broker is librdkafka's mock cluster, inside this process (kworker.kafka.embedded).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from crew import GROUP, Crew, Worker
from ledger import DEAD_LETTERS, Ledger
from plan import TOPIC, WEBHOOKS, Piece, pieces
from receiver import Receiver
from screen import Screen

from kworker import Client
from kworker.kafka.embedded import PARTITIONS, EmbeddedBroker

ROOT = Path(__file__).resolve().parents[1]
KILL_AT = 0.3
"""Part of the messages after which a worker is killed."""
DEADLINE = 240.0
"""Seconds after which the demo gives up."""


class Demo:
    """The story, step by step; each step returns when its fact is true."""

    def __init__(self, screen: Screen, broker: EmbeddedBroker, receiver: Receiver, crew: Crew, ledger: Ledger) -> None:
        self.screen = screen
        self.broker = broker
        self.receiver = receiver
        self.crew = crew
        self.ledger = ledger
        self.published = 0
        self.killed: Worker | None = None

    def publish(self, plan: dict[str, Piece]) -> None:
        """All messages, acknowledged."""
        with Client(self.broker.bootstrap, topic=TOPIC) as client:
            client.publish_many(piece.message for piece in plan.values())
        self.published = len(plan)
        pages = sum(piece.page is not None for piece in plan.values())
        doomed = sum(piece.fate is not None for piece in plan.values())
        self.screen.event(
            f"published {len(plan):,} tasks: {WEBHOOKS:,} webhooks, {pages} pages of this repository for `wc`,"
            f" {doomed} that cannot succeed"
        )

    def start(self) -> None:
        """Two workers, both with work."""
        workers = [self.crew.hire(), self.crew.hire()]
        self._until(lambda: all(worker.locate() for worker in workers), "both workers to open their admin ports")
        for worker in workers:
            self.screen.event(f"{worker.name} (pid {worker.pid}) runs: {worker.address}/status  /metrics")

    def kill(self) -> None:
        """kill -9 in the middle of the work, and a replacement, as a supervisor would start it."""
        self._until(lambda: self.ledger.accounted >= KILL_AT * self.published, "a part of the work to be done")
        victim = max(self.crew.workers, key=lambda worker: len(worker.status()["running"]))
        running = len(victim.status()["running"])
        victim.kill()
        self.killed = victim
        self.screen.event(f"kill -9 {victim.name} (pid {victim.pid}), {running} tasks running in it")
        worker = self.crew.hire()
        self.screen.event(f"{worker.name} (pid {worker.pid}) replaces it; the group notices the death within 6 s")

    def finish(self) -> None:
        """Every message accounted for, and every offset committed."""
        self._until(lambda: self.ledger.accounted >= self.published and not self.ledger.lag(), "all work to be done")
        self.screen.event("every task is accounted for, and every offset is committed")

    def report(self) -> bool:
        """The table; False when anything is not as it must be."""
        ledger = self.ledger
        runs = ledger.runs()
        twice = sum(count > 1 for count in runs.values())
        tasks, attempts = ledger.retried()
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons().most_common())
        name = self.killed.name if self.killed else "a worker"
        lines = sum(counts[0][0] for counts in ledger.counted.values())
        self.screen.say()
        self.screen.table(
            [
                ("published", self.published, "acknowledged by the broker"),
                ("succeeded", len(runs), f"every signature verified, {lines:,} lines counted right"),
                ("retried", tasks, f"{attempts} attempts were answered 500 or 503; Retry-After was kept"),
                ("dead-lettered", len(ledger.dead), reasons),
                ("run twice", twice, f"running in {name} when it died, or done and not yet committed"),
                ("lost", len(ledger.lost()), ""),
            ]
        )
        faults = ledger.faults()
        for fault in faults[:20]:
            self.screen.say(f"  WRONG: {fault}")
        return not faults

    def directions(self, *, stay: bool) -> None:
        """Where to look: what the dead letters say, and how to see all of it."""
        self.screen.say(f"\nSome of the dead letters, as they are in {DEAD_LETTERS}:")
        seen: set[str] = set()
        for letters in self.ledger.dead.values():
            letter = letters[0]
            if letter["kworker-reason"] not in seen:
                seen.add(letter["kworker-reason"])
                why = letter["kworker-error-message"]
                self.screen.say(f"  {letter['kworker-reason']:<12} {letter['ce_type']:<13} {why[:80]}")
        python = shlex.quote(os.path.relpath(sys.executable))
        self.screen.say("\nWhere to look:")
        self.screen.table(
            [
                *(("metrics", f"{worker.address}/metrics", "") for worker in self.crew.living),
                *(("status", f"{worker.address}/status", "") for worker in self.crew.living),
                ("dead letters", f"kcat -C -e -b {self.broker.bootstrap} -t {DEAD_LETTERS} -f '%h\\n%s\\n\\n'", ""),
                ("publish", f"{python} -m kworker publish --bootstrap {self.broker.bootstrap} TASK PAYLOAD", ""),
                ("logs", str(self.crew.folder), ""),
            ]
        )
        if not stay:
            script = shlex.quote(os.path.relpath(__file__))
            self.screen.say(f"All of it ends now; `{python} {script} --stay` leaves it up until Enter.")

    def stop(self) -> bool:
        """SIGTERM to the workers: each must drain, commit and exit with 0."""
        codes = self.crew.stop()
        self.screen.event(f"the workers were stopped with SIGTERM; exit codes {', '.join(map(str, codes))}")
        return not any(codes)

    def _until(self, fact: Callable[[], bool], what: str) -> None:
        """Look and show until `fact` is true. Raises SystemExit when a worker died or the time is up."""
        while not self._check(fact):
            dead = [worker for worker in self.crew.workers if worker.code is not None and worker is not self.killed]
            for worker in dead:
                for line in worker.lines()[-10:]:
                    self.screen.say(f"  {worker.name}: {line.get('message')}")
                raise SystemExit(f"demo: {worker.name} ended with {worker.code}")
            if self.screen.seconds > DEADLINE:
                raise SystemExit(f"demo: waited in vain for {what}; logs of the workers: {self.crew.folder}")
            time.sleep(0.05)

    def _check(self, fact: Callable[[], bool]) -> bool:
        self.ledger.look()
        if self.published:
            living = len(self.crew.living)
            more = f"{living} workers   {self.ledger.retried()[0]} retried   {len(self.ledger.dead)} dead letters"
            self.screen.progress(self.ledger.accounted, self.published, more)
        return fact()


def main() -> int:
    """Run the demo; returns 0 if nothing was lost and everything was as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stay", action="store_true", help="leave broker and workers up at the end, until Enter")
    stay: bool = parser.parse_args().stay
    screen = Screen()
    screen.say("kworker demo. The broker is in this process and in memory: NOTHING IS KEPT when the demo ends.\n")
    key = os.urandom(32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kworker-demo-")))
        broker = stack.enter_context(EmbeddedBroker())
        for topic in (TOPIC, DEAD_LETTERS):
            broker.create(topic)
        receiver = stack.enter_context(closing(Receiver(key)))
        plan = pieces(ROOT, receiver.url)
        crew = stack.enter_context(Crew(folder, broker.bootstrap, receiver.url, key))
        ledger = stack.enter_context(closing(Ledger(plan, receiver, crew.counts, broker.bootstrap, GROUP, PARTITIONS)))
        demo = Demo(screen, broker, receiver, crew, ledger)
        demo.publish(plan)
        demo.start()
        demo.kill()
        demo.finish()
        good = demo.report()
        demo.directions(stay=stay)
        if stay:
            input("\nEnter ends it. ")
        good &= demo.stop()
        os.system(f"mkdir -p /tmp/demolog; cp {folder}/*.log /tmp/demolog/")
    return 0 if good else 1


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: everything is cleaned up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ndemo: interrupted; its processes are stopped and its files are gone", file=sys.stderr)
        sys.exit(130)
