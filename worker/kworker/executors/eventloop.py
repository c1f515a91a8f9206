"""One asyncio event loop in a thread of its own; asked by another thread whether it still answers.

Promises: nothing that runs in it ends it but `retire`, also no SystemExit of a callback or of a task that a plugin left
behind. uvloop is used where it is installed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Attempt = TypeVar("Attempt")

_LEFTOVERS = 1.0  # seconds that tasks which a plugin left behind have to end, at the end
_FRAMES = 12
_numbers = itertools.count(1)


class EventLoop(Generic[Attempt]):
    """See the module. `feed` is called in its thread after `wake`; `attempts` is what runs in it.

    complained: that it does not answer was logged; set by who asks. turn: see `mark`.
    """

    def __init__(self, feed: Callable[[EventLoop[Attempt]], None]) -> None:
        self.asyncio = _new_loop()
        self.attempts: set[Attempt] = set()
        self.complained = False
        self.turn = 0
        self._feed = feed
        self._awake = False
        self._marked = False
        self._asked: float | None = None
        self._retired = False
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name=f"kworker-coroutines-{next(_numbers)}", daemon=True)
        self._thread.start()

    # -- from other threads -------------------------------------------------------------------------------------------

    def call(self, callback: Callable[[], None]) -> None:
        """Have it call `callback`; forgotten when it has ended."""
        try:
            self.asyncio.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._ended:
                raise

    def wake(self) -> None:
        """Have it take what there is; costs nothing when it is about to."""
        if not self._awake:
            self._awake = True
            self.call(self._take)

    def probe(self, now: float) -> None:
        """Ask for an answer, unless one is awaited."""
        if self._asked is None:
            self._asked = now
            self.call(self._answer)

    def lag(self, now: float) -> float:
        """Seconds for which it has not answered."""
        asked = self._asked
        return 0.0 if asked is None else now - asked

    def current(self) -> asyncio.Task[object] | None:
        """The task that runs in it at this moment."""
        return asyncio.current_task(self.asyncio)

    def stack(self) -> str:
        """Where its thread is."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame is not None else ""

    def retire(self) -> None:
        """Let it end when nothing runs in it any more."""
        self._retired = True
        self.end_if_idle_soon()

    def end_if_idle_soon(self) -> None:
        """`end_if_idle`, from another thread."""
        self.call(self.end_if_idle)

    # -- in its thread ------------------------------------------------------------------------------------------------

    def end_if_idle(self) -> None:
        """End if it is retired and nothing runs."""
        if self._retired and not self.attempts:
            self._ended = True
            self.asyncio.stop()

    def mark(self) -> int:
        """Have it take what there is after this step, once for all steps of this turn; returns `turn`.

        Who reads the same `turn` later has not been suspended since: what resumes a task is called after what is asked
        for here, and that counts up.
        """
        if not self._marked:
            self._marked = True
            self.asyncio.call_soon(self._turn_over)
        return self.turn

    def _turn_over(self) -> None:
        self._marked = False
        self.turn += 1
        self._feed(self)

    def _take(self) -> None:
        # Order: the flag first, so that what comes while this looks wakes it again.
        self._awake = False
        self._feed(self)

    def _answer(self) -> None:
        self._asked = None
        self.complained = False

    def _serve(self) -> None:
        while not self._ended:
            try:
                self.asyncio.run_forever()
            except BaseException:  # asyncio lets SystemExit and KeyboardInterrupt out of its loop
                log.exception("something that a plugin left in the event loop tried to end it")
        self._close()

    def _close(self) -> None:
        left = asyncio.all_tasks(self.asyncio)
        for task in left:
            task.cancel()
        try:
            if left:
                self.asyncio.run_until_complete(asyncio.wait(left, timeout=_LEFTOVERS))
            self.asyncio.run_until_complete(self.asyncio.shutdown_asyncgens())
        except BaseException:  # as above
            log.exception("something that a plugin left in the event loop failed at its end")
        self.asyncio.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
