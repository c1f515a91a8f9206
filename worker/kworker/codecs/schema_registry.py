"""Schemas by id from a Confluent-compatible schema registry (Confluent, Apicurio's ccompat, Karapace, Redpanda).

Promises: an id is asked for once and kept, with a bound; whoever needs one waits at most a second for it, while the
lookup goes on in a thread of its own, within its own time; while the registry does not answer, nobody waits at all, and
in a thread of coroutines nobody ever does.
Only the registry's own word that it has no such schema is a DecodeError: everything else that goes wrong (no
connection, a login refused, a proxy's page) is `Unavailable`, and the task waits.

Plain http.client: confluent_kafka.schema_registry brings httpx2, authlib, attrs, cachetools and certifi, takes 0.38 s
to import (http.client: 0.03 s), and its client retries by itself, which holds the slot that waits for it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import quote

from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.json import check, one_line
from kworker.codecs.limits import Limits
from kworker.codecs.registered_schema import Registered, unknown
from kworker.codecs.registry_exchange import Exchange, Get, NotFound, tls
from kworker.config.schema_registry import SchemaRegistrySettings
from kworker.errors import DecodeError, Unavailable
from kworker.task import Reason

WAIT = 1.0
"""Seconds that a slot waits for an answer: below the grace of a deadline, so that waiting costs no attempt."""

TIMEOUT = 10.0
"""Seconds that one lookup may take at one address."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds without asking, after an answer that was none
_MOST_KNOWN = 1000
_MOST_LOOKUPS = 16
_MOST_REFERENCES = 32
_SCHEMA_TEXT = Limits(max_bytes=1 << 20, max_depth=256)
_LOG = logging.getLogger("kworker.schema_registry")
_SOON = 0.1  # seconds after which a coroutine, which cannot wait, asks again
_CLAIMABLE = 5.0
_Answer = TypeVar("_Answer")


class _Lookup:
    """One question under way. `left`: somebody who had asked did not wait for the answer; `answered`: when it came."""

    def __init__(self) -> None:
        self.answer: Future[Registered] = Future()
        self.left = False
        self.answered = 0.0


class SchemaRegistry:
    """The schemas of one registry; threads share it. Raises ConfigError when the TLS files cannot be used."""

    def __init__(self, settings: SchemaRegistrySettings, limits: Limits | None = None) -> None:
        self._settings = settings
        self._limits = limits or Limits()
        self._urls = settings.url.split(",")
        self._tls = tls(settings)
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Registered] = OrderedDict()
        self._lookups: dict[int, _Lookup] = {}
        self._unclaimed: OrderedDict[int, _Lookup] = OrderedDict()
        self._pause = 0.0
        self._quiet_until = 0.0

    def schema(self, id: int, topic: str) -> AvroSchema:
        """The schema `id`, which belongs to the subject of `topic`.

        Raises DecodeError when the registry has no such schema, or it belongs to other subjects only, or it cannot be
        used; Unavailable, with how long to wait, when the registry does not say.
        """
        known = self._known.get(id)
        # No refusal is remembered: an id may be registered, or get another subject, just before its first record.
        if known is None or known.is_foreign(topic, self._settings.subject):
            known = self._ask(id, known)
        return known.usable(id, topic, self._settings.subject)

    def check(self) -> None:
        """Raise Unavailable, which says why, when the registry cannot be used now."""
        self._of_first(lambda get: get("/schemas/types"))

    def _ask(self, id: int, seen: Registered | None) -> Registered:
        """What the registry says of `id`, if it does so soon. `seen`: what it has said before, which is not enough."""
        wait = 0.0 if _in_event_loop() else WAIT
        with self._lock:
            quiet = self._quiet_until - time.monotonic()
            known = self._known.get(id)
            if known is not None and known is not seen:  # it has just come
                return known
            lookup = self._lookups.get(id) or self._claim(id)
            if lookup is None:
                if quiet > 0 or len(self._lookups) >= _MOST_LOOKUPS:
                    raise Unavailable("the schema registry did not answer; it is asked again soon", max(quiet, WAIT))
                lookup = self._lookups[id] = _Lookup()
                name = f"kworker-schema-{id}"
                threading.Thread(target=self._look_up, args=(id, lookup), name=name, daemon=True).start()
        try:
            return lookup.answer.result(wait)
        except TimeoutError:
            lookup.left = True
            raise Unavailable(f"the schema registry has not yet answered for schema {id}", wait or _SOON) from None

    def _claim(self, id: int) -> _Lookup | None:
        """A recent answer that came after who had asked for it left: very likely it is back, and so it gets it."""
        lookup = self._unclaimed.pop(id, None)
        return lookup if lookup is not None and time.monotonic() - lookup.answered < _CLAIMABLE else None

    def _look_up(self, id: int, lookup: _Lookup) -> None:
        """The thread of one lookup."""
        known: Registered | None = None
        fault: DecodeError | Unavailable | None = None
        try:
            known = self._of_first(lambda get: self._fetch(id, get))
        except NotFound:
            fault = DecodeError(Reason.UNDECODABLE, "schema_unknown", unknown(id))
        except Exception as error:  # who waits for it must be told, whatever it is
            fault = (
                error
                if isinstance(error, Unavailable)
                else Unavailable(f"looking up schema {id} failed: {error!r}", WAIT)
            )
        with self._lock:
            del self._lookups[id]
            self._note(fault)
            lookup.answered = time.monotonic()
            if lookup.left and not isinstance(fault, Unavailable):
                _keep(self._unclaimed, id, lookup)
            if known is not None:
                _keep(self._known, id, known)
        if known is not None:
            lookup.answer.set_result(known)
        else:
            lookup.answer.set_exception(fault)

    def _note(self, fault: Exception | None) -> None:
        """Ask less and less often while there is no answer."""
        if not isinstance(fault, Unavailable):
            self._pause = 0.0
            return
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, self._pause * 2))
        self._quiet_until = time.monotonic() + self._pause
        fault.after = self._pause
        _LOG.warning("tasks wait for the schema registry: %s", fault, extra={"again_in": self._pause})

    def _fetch(self, id: int, get: Get) -> Registered:
        # Versions that were deleted count: records written by them are still there.
        versions = get(f"/schemas/ids/{id}/versions?deleted=true")
        answer = get(f"/schemas/ids/{id}")
        schema, fault = None, ""
        try:
            subjects = frozenset(str(version["subject"]) for version in versions)
            if (kind := answer.get("schemaType", "AVRO")) != "AVRO":
                raise ValueError(f"its type is {kind}, not AVRO")
            needed: dict[str, Any] = {}
            self._collect(answer, get, needed)
            schema = AvroSchema(_definition(answer), self._limits, list(needed.values()))
        except ValueError as error:
            fault = str(error)
        except (TypeError, KeyError, AttributeError) as error:
            raise Unavailable(f"its answer for schema {id} is not understood", WAIT) from error
        return Registered(schema, fault, subjects)

    def _collect(self, answer: Any, get: Get, needed: dict[str, Any]) -> None:
        """The schemas that a schema refers to, each after those that it refers to itself."""
        for reference in answer.get("references") or ():
            subject, version = str(reference["subject"]), int(reference["version"])
            if (key := f"{subject}/{version}") in needed:
                continue
            if len(needed) >= _MOST_REFERENCES:
                raise ValueError(f"it refers to more than {_MOST_REFERENCES} schemas")
            needed[key] = None  # its place is taken: one that refers to itself ends here
            found = get(f"/subjects/{quote(subject, safe='')}/versions/{version}?deleted=true")
            self._collect(found, get, needed)
            del needed[key]
            needed[key] = _definition(found)

    def _of_first(self, work: Callable[[Get], _Answer]) -> _Answer:
        """What `work` gets from the first address that answers. Raises NotFound or Unavailable."""
        faults = []
        for url in self._urls:
            with Exchange(url, self._settings, self._tls, TIMEOUT) as exchange:
                try:
                    return work(exchange.get)
                except (OSError, http.client.HTTPException, Unavailable) as error:
                    faults.append(f"{exchange.place}: {one_line(str(error) or type(error).__name__)}")
        raise Unavailable(f"the schema registry does not answer ({'; '.join(faults)})", WAIT)


def _keep(kept: OrderedDict[int, _Answer], id: int, answer: _Answer) -> None:
    kept[id] = answer
    if len(kept) > _MOST_KNOWN:
        kept.popitem(last=False)


def _in_event_loop() -> bool:
    """Whether this thread runs coroutines: waiting here would stop all of them."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _definition(answer: Any) -> Any:
    """The schema in an answer, its text checked like a payload's. Raises ValueError for what is no JSON."""
    text = answer["schema"].encode()
    try:
        check(text, _SCHEMA_TEXT)
        return json.loads(text)
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"its text is beyond the limits ({error})") from error
