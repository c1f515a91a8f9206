"""`make demo`: thousands of real tasks, two workers, one killed with -9 in the middle, and a count of what came of it.

Nothing but Python is needed: the broker is librdkafka's mock cluster, inside this process (kworker.kafka.embedded).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from operator import itemgetter
from pathlib import Path
from types import FrameType

from crew import GROUP, Crew, Worker
from ledger import DEAD_LETTERS, Ledger
from plan import TOPIC, WEBHOOKS, Piece, pieces
from receiver import ORDERS, Receiver
from screen import Screen

from kworker import Client
from kworker.kafka.embedded import PARTITIONS, EmbeddedBroker

ROOT = Path(__file__).resolve().parents[1]
KILL_AT = 0.35
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

    def start(self) -> None:
        """Two workers, each with its part of the partitions."""
        workers = [self.crew.hire(), self.crew.hire()]
        self._until(lambda: all(worker.locate() for worker in workers), "both workers to open their admin ports")
        for worker in workers:
            self.screen.event(f"{worker.name} (pid {worker.pid}) runs: {worker.address}/status  /metrics")
        # Nothing is published before: while a group finds its order this broker refuses commits, and a kill would then
        # run everything again.
        self._until(lambda: self._shared_by(workers), "both workers to have partitions")
        for worker in workers:
            self.screen.event(f"{worker.name} has {worker.partitions()}")

    @staticmethod
    def _shared_by(workers: list[Worker]) -> bool:
        owned = [worker.partitions() for worker in workers]
        return all(owned) and sorted(" ".join(owned).split()) == [f"{TOPIC}/{n}" for n in range(PARTITIONS)]

    def publish(self, plan: dict[str, Piece]) -> None:
        """All messages, acknowledged."""
        with Client(self.broker.bootstrap, topic=TOPIC) as client:
            client.publish_many(piece.message for piece in plan.values())
        self.published = len(plan)
        pages = sum(piece.page is not None for piece in plan.values())
        doomed = sum(piece.fate is not None for piece in plan.values())
        self.screen.event(
            f"published {len(plan):,} tasks: {WEBHOOKS:,} webhooks, {pages} pages of this repository for wc,"
            f" {doomed} that cannot succeed"
        )

    def kill(self) -> None:
        """kill -9 in the middle of the work, and a replacement, as a supervisor would start it."""
        self._until(lambda: self.ledger.accounted >= KILL_AT * self.published, "a part of the work to be done")
        running, victim = max(((len(w.status()["running"]), w) for w in self.crew.workers), key=itemgetter(0))
        victim.kill()
        self.killed = victim
        self.screen.event(f"kill -9 {victim.name} (pid {victim.pid}), {running} tasks running in it")
        worker = self.crew.hire()
        self.screen.event(f"{worker.name} (pid {worker.pid}) replaces it; the group notices the death within 6 s")
        self._until(lambda: worker.locate() and bool(worker.partitions()), f"{worker.name} to take over")
        self.screen.event(f"{worker.name} has taken over {worker.partitions()}")

    def finish(self) -> None:
        """Every message accounted for, and every offset committed."""
        self._until(lambda: self.ledger.accounted >= self.published and not self.ledger.lag(), "all work to be done")
        self.screen.event("every task is accounted for, and every offset is committed")

    def report(self) -> bool:
        """The table; False when anything is not as it must be."""
        ledger, runs = self.ledger, self.ledger.runs()
        lines = sum(counts[0][0] for counts in ledger.counted.values())
        early = self.receiver.early
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons().most_common())
        victim = self.killed.name if self.killed else "a worker"
        self.screen.say()
        self.screen.numbers(
            [
                ("published", self.published, "acknowledged by the broker"),
                ("succeeded", len(runs), f"every signature verified, {lines:,} lines of text counted"),
                (
                    "retried",
                    ledger.retried(),
                    f"Retry-After not kept {early} times" if early else "Retry-After was kept",
                ),
                ("dead-lettered", len(ledger.dead), reasons),
                ("run twice", ledger.run_twice(), f"running in {victim}, or done and not yet committed, when it died"),
                ("lost", len(ledger.lost()), ""),
            ]
        )
        faults = ledger.faults()
        for fault in faults[:20]:
            self.screen.say(f"  WRONG: {fault}")
        return not faults

    def directions(self, *, stay: bool) -> None:
        """Where to look: what dead letters say, and how to see everything."""
        self.screen.say("\nOne dead letter of each reason, by its headers:")
        letters = {letter[0]["kworker-reason"]: letter[0] for letter in self.ledger.dead.values()}
        self.screen.list(
            [
                (reason, f"{letter['ce_type']:<14}{letter['kworker-error-message'][:80]}")
                for reason, letter in sorted(letters.items())
            ]
        )
        living, broker = self.crew.living, self.broker.bootstrap
        for worker in living:
            worker.locate()
        kworker = shlex.quote(os.path.relpath(Path(sys.executable).with_name("kworker")))
        url = json.dumps({"url": self.receiver.url + ORDERS})
        self.screen.say("\nWhere to look:")
        self.screen.list(
            [
                ("metrics", "  ".join(f"{worker.address}/metrics" for worker in living)),
                ("status", "  ".join(f"{worker.address}/status" for worker in living)),
                ("logs", str(self.crew.folder)),
                ("dead letters", f"kcat -C -e -b {broker} -t {DEAD_LETTERS} -f '%h\\n%s\\n\\n'"),
                ("publish", f"{kworker} publish --bootstrap {broker} http.deliver '{url}'"),
            ]
        )
        if not stay:
            again = shlex.join([os.path.relpath(sys.executable), os.path.relpath(__file__), "--stay"])
            self.screen.say(f"It ends now. To look around, run `{again}`: it stays until Enter.")
        self.screen.say()

    def stop(self) -> bool:
        """SIGTERM to the workers: each must drain, commit and exit with 0."""
        codes = self.crew.stop()
        self.screen.event(f"stopped with SIGTERM; exit codes {', '.join(map(str, codes))}")
        return not any(codes)

    def _until(self, fact: Callable[[], bool], what: str) -> None:
        """Look and show until `fact` is true. Raises SystemExit when a worker died or the time is up."""
        while not self._check(fact):
            ended = [worker for worker in self.crew.workers if worker.code is not None and worker is not self.killed]
            if not ended and self.screen.seconds < DEADLINE:
                time.sleep(0.05)
                continue
            for worker in self.crew.workers:
                for line in worker.lines()[-5:]:
                    self.screen.say(f"  {worker.name}: {line.get('message')}")
            how = ", ".join(f"{worker.name} ended with {worker.code}" for worker in ended)
            raise SystemExit(f"demo: waited for {what}: {how or f'not within {DEADLINE:g} s'}")

    def _check(self, fact: Callable[[], bool]) -> bool:
        self.ledger.look()
        if self.published:
            living = len(self.crew.living)
            more = f"{living} workers   {self.ledger.retried()} retried   {len(self.ledger.dead)} dead letters"
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
        demo.start()
        demo.publish(plan)
        demo.kill()
        demo.finish()
        good = demo.report()
        demo.directions(stay=stay)
        if stay:
            input("Enter ends it. ")
        good &= demo.stop()
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
