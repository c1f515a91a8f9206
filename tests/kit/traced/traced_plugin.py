"""Tasks of every executor, for what is seen of them in traces."""

from __future__ import annotations

from opentelemetry import trace

from kworker import Context, Reject, task


@task("traced.thread")
def in_thread(n: int, *, ctx: Context) -> None:
    ctx.publish("traced.coroutine", {"n": n})


@task("traced.coroutine")
async def in_coroutine(n: int) -> None:
    with trace.get_tracer("plugin").start_as_current_span(f"inside {n}"):
        return


@task("traced.process", executor="process")
def in_process(n: int) -> None:
    if n < 0:
        raise Reject("negative")


@task("traced.exit", max_attempts=1)
def exits() -> None:
    raise SystemExit(3)
