"""Tasks to replay: one for every way an attempt may end. `setup` and `teardown` say that they were called."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from kworker import Context, Plugin, Reject, Retry, task


class ReplaySettings(Struct):
    """What `[plugins.replay]` may say."""

    greeting: str = "Hello"


class Replayed(Plugin):
    """All of them."""

    Settings = ReplaySettings

    def setup(self, settings: ReplaySettings) -> None:
        """Keep the settings."""
        print("set up")
        self._greeting = settings.greeting

    def teardown(self) -> None:
        """Say so."""
        print("torn down")

    @task("replay.greet")
    def greet(self, who: str, *, ctx: Context) -> dict[str, object]:
        """Returns what it knows, and publishes."""
        ctx.log.info("greeting")
        ctx.publish("replay.next", {"who": who}, key="k")
        return {"said": f"{self._greeting} {who}", "id": ctx.id, "attempt": ctx.attempt, "offset": ctx.offset}

    @task("replay.later")
    async def later(self, who: str) -> str:
        """Asynchronous."""
        await asyncio.sleep(0)
        return who

    @task("replay.child", executor="process")
    def child(self) -> None:
        """Runs in a child process otherwise."""

    @task("replay.divide", max_attempts=3)
    def divide(self, by: int) -> float:
        """May fail."""
        return 1 / by

    @task("replay.fail")
    async def fail(self) -> None:
        """Fails, with the wait it wants, and with what a terminal must not see."""
        raise Retry("\x1b[2Jtry again", after=7)

    @task("replay.reject")
    def reject(self) -> None:
        """Never succeeds."""
        raise Reject("no")

    @task("replay.exit")
    def exit(self) -> None:
        """Wants to end the process."""
        raise SystemExit(0)

    @task("replay.object")
    def object(self) -> object:
        """Returns what JSON cannot hold."""
        return object()
