"""kworker-http: deliver a task's payload to a URL as a signed webhook (Standard Webhooks)."""

from __future__ import annotations

from kworker_http.plugin import Http
from kworker_http.settings import Endpoint, HttpSettings

__all__ = ["Endpoint", "Http", "HttpSettings"]
