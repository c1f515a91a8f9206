"""The plugin: task `http.deliver`, and how its settings become something to deliver with."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from kworker import ConfigError, Context, Plugin, Reject, Retry, task
from kworker_http.addresses import Guard
from kworker_http.answers import NoAnswerError, judge
from kworker_http.settings import Endpoint, HttpSettings
from kworker_http.signing import read_secret, sign, webhook_id
from kworker_http.urls import Prefix, Url, parse

_RESERVED = re.compile(
    r"host|content-(length|type|encoding)|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect"
    r"|accept-encoding|user-agent|proxy-.*|webhook-.*"
)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?", re.ASCII)
_YEAR_10000 = 253402300800
_SPARE = 0.25
"""Seconds of the task's own time kept for what follows the answer."""


@dataclass(frozen=True, slots=True)
class _Route:
    prefix: Prefix
    keys: tuple[bytes, ...]
    headers: Mapping[str, str]


class Http(Plugin):
    """Delivers payloads to URLs as webhooks that follow the Standard Webhooks specification."""

    Settings: ClassVar[type[msgspec.Struct] | None] = HttpSettings

    def setup(self, settings: HttpSettings) -> None:
        """Read secrets and prefixes, and open the pools. Raises ConfigError with every finding."""
        from kworker_http.transport import Transport

        faults: list[str] = []
        self._settings = settings
        self._allow = [prefix for text in settings.allow if (prefix := _prefix("allow", text, faults))]
        self._routes = self._read_routes(settings, faults)
        try:
            self._transport = Transport(
                Guard(settings.allow_internal),
                keep_alive=settings.keep_alive,
                max_response_bytes=settings.max_response_bytes,
                ca_file=settings.ca_file,
            )
        except OSError as error:
            faults.append(f"plugins.http: ca_file {settings.ca_file}: {error}")
        except ValueError as error:
            faults.append(f"plugins.http: allow_internal: {error}")
        if faults:
            raise ConfigError(faults)

    def teardown(self) -> None:
        """Close the connections that are kept."""
        self._transport.close()

    def _read_routes(self, settings: HttpSettings, faults: list[str]) -> list[_Route]:
        keys, headers = _keys("", settings, faults), _headers("plugins.http: ", settings.headers, faults)
        routes = [_Route(prefix, keys, headers) for prefix in self._allow]
        for text, endpoint in settings.endpoints.items():
            where = f"endpoints.{text!r}"
            prefix = _prefix(where, text, faults)
            if prefix is None:
                continue
            if not any(allowed.covers(prefix.url) for allowed in self._allow):
                faults.append(f"plugins.http: {where}: no prefix of `allow` covers it")
            own = _headers(f"plugins.http: {where}.", endpoint.headers, faults)
            routes.append(_Route(prefix, _keys(f"{where}.", endpoint, faults) or keys, {**headers, **own}))
        # Sorting keeps the order of equals: reversed, an endpoint comes before the prefix that allows it.
        return sorted(routes, key=lambda route: route.prefix.weight)[::-1]

    @task("http.deliver")
    def deliver(
        self,
        url: str,
        data: Any = None,
        event: str | None = None,
        headers: dict[str, str] | None = None,
        *,
        ctx: Context,
    ) -> dict[str, int]:
        """POST `data` as JSON to `url`; returns the receiver's 2xx status.

        event: the type of the event; with it the body is the specification's `{"type", "timestamp", "data"}`, where
        the timestamp is the record's. headers: sent beside those of the settings, which they cannot replace.
        Raises Reject for a URL, address or header that is not allowed and for 3xx and 4xx; Retry for no answer,
        for 408, 425, 429 and for 5xx, after the time that Retry-After asks for.
        """
        target, route = self._route(url)
        sent = {**route.headers, **_extra(headers or {}, route.headers)}
        body = msgspec.json.encode(data if event is None else _event(event, data, ctx))
        limit = self._settings.timeout
        if (remaining := ctx.remaining()) is not None:
            limit = min(limit, remaining - _SPARE)
        if limit <= 0:
            raise Retry("no time is left for a delivery")
        sent |= sign(route.keys, webhook_id(ctx.id), int(time.time()), body)
        sent |= {"content-type": "application/json", "user-agent": "kworker-http"}
        try:
            answer = self._transport.post(target, body, sent, limit)
        except NoAnswerError as error:
            raise Retry(str(error)) from error
        status = judge(answer, origin=target.origin, now=time.time(), max_retry_after=self._settings.max_retry_after)
        return {"status": status}

    def _route(self, text: str) -> tuple[Url, _Route]:
        try:
            url = parse(text)
        except ValueError as error:
            raise Reject(f"url: {error}") from None
        if any(prefix.covers(url) for prefix in self._allow):
            for route in self._routes:
                if route.prefix.covers(url):
                    return url, route
        raise Reject(f"url: no prefix of [plugins.http] allow covers this one of {url.origin}")


def _event(kind: str, data: Any, ctx: Context) -> dict[str, Any]:
    # A publisher sets the record's time, and may set it to none or to one beyond the calendar.
    seconds = ctx.published_at if 0 < ctx.published_at < _YEAR_10000 else time.time()
    happened = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return {"type": kind, "timestamp": happened.replace("+00:00", "Z"), "data": data}


def _extra(headers: Mapping[str, str], fixed: Mapping[str, str]) -> dict[str, str]:
    """The message's own headers, lower-case. Raises Reject for one that it may not send."""
    faults: list[str] = []
    extra = _headers("", headers, faults)
    faults += [f"headers: {name!r} is set by the settings" for name in extra if name in fixed]
    if faults:
        raise Reject(faults[0])
    return extra


def _headers(where: str, headers: Mapping[str, str], faults: list[str]) -> dict[str, str]:
    read: dict[str, str] = {}
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name.lower()):
            faults.append(f"{where}headers: {name[:40]!r} cannot be set")
        elif not _VALUE.fullmatch(value):
            faults.append(f"{where}headers: the value of {name!r} is not printable ASCII")
        else:
            read[name.lower()] = value
    return read


def _prefix(where: str, text: str, faults: list[str]) -> Prefix | None:
    try:
        return Prefix.parse(text)
    except ValueError as error:
        faults.append(f"plugins.http: {where}: {text!r}: {error}")
        return None


def _keys(where: str, endpoint: Endpoint, faults: list[str]) -> tuple[bytes, ...]:
    found = [(f"{where}secrets[{index}]", text) for index, text in enumerate(endpoint.secrets)]
    for name in endpoint.secret_files:
        try:
            lines = Path(name).read_text("utf-8").split()
        except (OSError, UnicodeError) as error:
            faults.append(f"plugins.http: {where}secret_files: {name}: {error}")
            continue
        if not lines:
            faults.append(f"plugins.http: {where}secret_files: {name}: holds no secret")
        found += [(f"{where}secret_files: {name}", line) for line in lines]
    keys = []
    for place, text in found:
        try:
            keys.append(read_secret(text))
        except ValueError as error:
            faults.append(f"plugins.http: {place}: {error}")
    return tuple(keys)
