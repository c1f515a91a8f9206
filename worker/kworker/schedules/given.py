"""A schedule as its users give it: a table of kworker.toml, the options of a command, the arguments of a function.

Promises: every fault is told, each with the key it is about; what is returned can be published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from kworker.duration import MAXIMUM, seconds
from kworker.schedules.misfire import MOST, Policy
from kworker.schedules.moment import moment
from kworker.schedules.schedule import NAME, Schedule
from kworker.schedules.trigger import Cron, Every, Once, Trigger
from kworker.task import is_target

KEYS = ("cron", "tz", "every", "at", "task", "payload", "topic", "key", "jitter", "misfire", "most")
"""What may be given. payload: what JSON can hold, or a msgspec.Raw that is JSON already."""

LONGEST_PAYLOAD = 256 << 10
"""Bytes of a payload as JSON."""

_LONGEST_KEY = 1024


class Faults(ValueError):
    """What is wrong with a schedule: for each fault its key, '' for several together, and what to do."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {why}" if key else why for key, why in faults))
        self.faults = faults


def read(name: str, given: Mapping[str, object], *, now: float, source: str = "") -> Schedule:
    """The schedule of this name. given: by KEYS; what is None counts as not given. now: seconds since the epoch.

    Raises Faults.
    """
    return _Reading(name, {key: value for key, value in given.items() if value is not None}, now).schedule(source)


class _Reading:
    def __init__(self, name: str, given: Mapping[str, object], now: float) -> None:
        self._name = name
        self._given = given
        self._now = now
        self._faults: list[tuple[str, str]] = []

    def schedule(self, source: str) -> Schedule:
        if not NAME.fullmatch(self._name):
            self._faults.append(("", f"{self._name[:40]!r} is no name: 1 to 100 of the characters a-z A-Z 0-9 . _ -"))
        trigger = self._trigger()
        fields = {key: self._read(key, read) for key, read in _READERS.items() if key in self._given}
        if "task" not in self._given:
            self._faults.append(("task", "it is not given: name the task that is run"))
        if self._faults or trigger is None:
            raise Faults(self._faults)
        return Schedule(name=self._name, trigger=trigger, source=source, **fields)  # type: ignore[arg-type]  # each was read by its own reader

    def _read(self, key: str, read: Callable[[object], object]) -> object:
        try:
            return read(self._given[key])
        except ValueError as error:
            # The triggers name their key themselves.
            self._faults.append((key, str(error).removeprefix(f"{key} ").removeprefix(f"{key}: ")))
            return None

    def _trigger(self) -> Trigger | None:
        kinds = [key for key in ("cron", "every", "at") if key in self._given]
        if len(kinds) != 1:
            both = f"{' and '.join(kinds)} are {len(kinds)} ways to say when: give one"
            self._faults.append(("", both if kinds else "say when it is due: by cron, every or at"))
        found = {kind: self._read(kind, _TRIGGERS[kind]) for kind in kinds}
        if "tz" in self._given:
            zone, cron = self._read("tz", _zone), found.get("cron")
            if "cron" not in found:
                self._faults.append(("tz", "it is the time zone of cron, which is not given"))
            elif isinstance(zone, str) and isinstance(cron, Cron):
                found["cron"] = Cron(cron.expression, zone)
        trigger = found[kinds[0]] if len(kinds) == 1 else None
        if not isinstance(trigger, Cron | Every | Once):
            return None
        if next(trigger.after(self._now), 0.0) > self._now + MAXIMUM:
            self._faults.append((kinds[0], "it is not due in the next ten years"))
        return trigger


def _cron(value: object) -> Cron:
    return Cron(_text(value).strip())


def _zone(value: object) -> str:
    return Cron("0 0 * * *", _text(value).strip()).tz


def _every(value: object) -> Every:
    return Every(_duration(value))


def _at(value: object) -> Once:
    if isinstance(value, bool) or not isinstance(value, datetime | str | int | float):
        raise ValueError(f"{_shown(value)} is not a time with a date, like 2027-01-31T09:00:00+01:00")  # noqa: TRY004 - a finding, not a bug
    return Once(moment(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{_shown(value)} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_shown(value)} cannot be written as UTF-8") from None
    return value


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_shown(value)} is not a duration: write 250ms, 10s, 5m, 2h or 3d")  # noqa: TRY004 - a finding
    return seconds(value)


def _task(value: object) -> str:
    name = _text(value)
    if len(name) > 200 or not name.isprintable() or name.startswith("_"):
        raise ValueError(f"{_shown(name)} is not a task name: 1 to 200 printable characters, no leading '_'")
    return name


def _topic(value: object) -> str:
    name = _text(value)
    if not is_target(name):
        raise ValueError(f"{_shown(name)} is not a topic that a task can go to")
    return name


def _key(value: object) -> str:
    key = _text(value)
    if len(key.encode()) > _LONGEST_KEY:
        raise ValueError(f"it has more than {_LONGEST_KEY} bytes")
    return key


def _payload(value: object) -> str:
    try:
        if isinstance(value, msgspec.Raw):
            text = bytes(value).decode()
            msgspec.json.decode(text)
        elif isinstance(value, bytes | bytearray | memoryview):
            raise ValueError("a schedule's payload is JSON, not bytes")  # noqa: TRY004 - a finding, not a bug
        else:
            # json, not msgspec: that writes NaN as null, and what the task would get is not what was given.
            built = msgspec.to_builtins(value, str_keys=True)
            text = json.dumps(built, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"it does not fit into JSON: {error}") from None
    if size > LONGEST_PAYLOAD:
        raise ValueError(f"it has {size} bytes, and may have {LONGEST_PAYLOAD >> 10} KiB")
    return text


def _misfire(value: object) -> Policy:
    word = _text(value).strip().lower()
    if word not in set(Policy):
        raise ValueError(f"{_shown(value)} is none of {', '.join(Policy)}")
    return Policy(word)


def _most(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"{_shown(value)} is not a whole number from 1 to {MOST}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_TRIGGERS: dict[str, Callable[[object], Trigger]] = {"cron": _cron, "every": _every, "at": _at}
_READERS: dict[str, Callable[[object], object]] = {
    "task": _task,
    "payload": _payload,
    "topic": _topic,
    "key": _key,
    "jitter": _duration,
    "misfire": _misfire,
    "most": _most,
}
