"""Spans by OpenTelemetry: one of kind CONSUMER round each attempt, in the trace of whoever published its message; and
one of kind PRODUCER for each message that a client with `tracing=True` publishes.

Names and attributes are those of OpenTelemetry's semantic conventions for messaging (Kafka), as of version 1.4x.
Needs the extra `otel`. What the SDK does with spans is said by its own variables, OTEL_*; a provider that the program
has set up already is used as it is. Promises: an attempt runs the same with and without it, and the SDK is started in
the process that runs tasks, never before a fork.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

from kworker.errors import ConfigError, Reject
from kworker.plugin import Context, Plugin
from kworker.registry import Lifetime, LoadedTask, PluginInfo, Registry
from kworker.task import Publication, Task

try:
    from opentelemetry import propagate, trace
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
except ImportError as missing:
    raise ConfigError(["tracing: OpenTelemetry is not installed: pip install 'kworker-kafka[otel]'"]) from missing

_FLUSH = 3_000  # milliseconds at the end


def traced(registry: Registry, group: str) -> Registry:
    """The same tasks with a span round each attempt. group: the consumer group that the spans name."""
    plugins = [
        PluginInfo(
            plugin.name,
            plugin.distribution,
            plugin.version,
            tuple(_traced_task(task, group) for task in plugin.tasks),
        )
        for plugin in registry.plugins
    ]
    kinds = frozenset(task.spec.executor for task in registry.tasks.values())
    return Registry(plugins, [Lifetime("tracing", _Sdk(), None, kinds), *registry.lifetimes])


class _Sdk(Plugin):
    """The SDK's life in one process: set up before the plugins, and told to send what is left after them."""

    def setup(self, settings: None) -> None:
        """Start the SDK, unless the program has."""
        _tracer()

    def teardown(self) -> None:
        """Send what is left."""
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)  # a provider of the API alone has none
        if flush is not None:
            flush(_FLUSH)


@cache
def _tracer() -> trace.Tracer:
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _start_sdk()
    return trace.get_tracer("kworker")


def _start_sdk() -> None:
    """As the SDK's variables say: OTEL_TRACES_EXPORTER (otlp, console or none), OTEL_SERVICE_NAME, OTEL_EXPORTER_*."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    provider = TracerProvider(
        resource=Resource.create({} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "kworker"})
    )
    if wanted == "console":
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    elif wanted == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    elif wanted != "none":
        raise ValueError(f"OTEL_TRACES_EXPORTER: {wanted!r} is not otlp, console or none")
    trace.set_tracer_provider(provider)


class Sending:
    """The span of one message on its way, of kind PRODUCER; it ends with the broker's answer."""

    def __init__(self, topic: str, task: str, id: str) -> None:
        self._span = _tracer().start_span(
            f"send {topic}",
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": topic,
                "messaging.message.id": id,
                "kworker.task": task,
            },
        )

    @property
    def headers(self) -> dict[str, str]:
        """What the message carries, so that its attempts are of the same trace."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(self._span))
        return carrier

    def written(self, partition: int, offset: int) -> None:
        """The broker has it."""
        self._span.set_attributes(
            {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}
        )
        self._span.end()

    def failed(self, why: str) -> None:
        """It was not acknowledged."""
        self._span.set_attribute("error.type", "PublishError")
        self._span.set_status(Status(StatusCode.ERROR, why))
        self._span.end()


class _WithContext:
    """A task's arguments, for a function that is always given the context."""

    wants_context = True

    def __init__(self, bind: Callable[[Task], tuple[tuple[object, ...], dict[str, object]]]) -> None:
        self.bind = bind


def _traced_task(task: LoadedTask, group: str) -> LoadedTask:
    function, wants = task.spec.function, task.signature.wants_context
    around = _around_async if inspect.iscoroutinefunction(function) else _around
    spec = replace(task.spec, function=around(function, wants, group))
    return replace(task, spec=spec, signature=_WithContext(task.signature.bind))


def _around(function: Callable[..., Any], wants: bool, group: str) -> Callable[..., Any]:
    def traced(*arguments: object, ctx: Context, **keywords: object) -> Any:
        with _span(ctx, group):
            return function(*arguments, **({**keywords, "ctx": ctx} if wants else keywords))

    return traced


def _around_async(function: Callable[..., Any], wants: bool, group: str) -> Callable[..., Any]:
    async def traced(*arguments: object, ctx: Context, **keywords: object) -> Any:
        with _span(ctx, group):
            return await function(*arguments, **({**keywords, "ctx": ctx} if wants else keywords))

    return traced


@contextmanager
def _span(ctx: Context, group: str) -> Iterator[None]:
    """The span of one attempt, in the publisher's trace and linked to the publisher's span."""
    parent = propagate.extract(ctx.headers, getter=_Headers())
    published = trace.get_current_span(parent).get_span_context()
    with _tracer().start_as_current_span(
        f"process {ctx.topic}",
        parent,
        SpanKind.CONSUMER,
        _attributes(ctx, group),
        [Link(published)] if published.is_valid else None,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        if ctx._publish is not None:  # no part of what plugins may use
            ctx._publish = partial(_publish, ctx._publish)
        try:
            yield
        except BaseException as error:  # SystemExit is a failure of the attempt as well; it is raised again
            _failed(span, error)
            raise


def _attributes(ctx: Context, group: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": ctx.topic,
        "messaging.destination.partition.id": str(ctx.partition),
        "messaging.kafka.offset": ctx.offset,
        "messaging.consumer.group.name": group,
        "messaging.message.id": ctx.id,
        "messaging.message.body.size": len(ctx.value or b""),
        "kworker.task": ctx.name,
        "kworker.attempt": ctx.attempt,
    }
    if ctx.key is not None:
        attributes["messaging.kafka.message.key"] = ctx.key.decode("utf-8", "backslashreplace")
    return attributes


def _failed(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, "" if isinstance(error, Reject) else type(error).__qualname__))
    if isinstance(error, Exception):
        span.record_exception(error)


def _publish(publish: Callable[..., Publication], task: str, payload: object, **attributes: Any) -> Publication:
    """What a task publishes is of its trace."""
    headers = dict(attributes.pop("headers") or {})
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return publish(task, payload, headers={**carrier, **headers}, **attributes)


class _Headers(Getter[dict[str, bytes | None]]):
    """Reads a record's headers for a propagator."""

    def get(self, carrier: dict[str, bytes | None], key: str) -> list[str] | None:
        value = carrier.get(key)
        return None if value is None else [value.decode("ascii", "replace")]

    def keys(self, carrier: dict[str, bytes | None]) -> list[str]:
        return list(carrier)
