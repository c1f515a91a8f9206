"""The plugins that are installed, and the tasks they offer here.

Owns discovery: entry points of the group `kworker.plugins`, each a module, a `Plugin` or one task. Promises: a task
name means one function of one distribution; what is wrong with several plugins is told at once, naming entry point
and distribution; a task that cannot run here is listed with the reason and keeps nothing from starting. Nothing a
message holds reaches this file: what is not in `tasks` after `load` does not exist.
"""

from __future__ import annotations

import inspect
import logging
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Protocol

import msgspec

from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.errors import ConfigError, PluginError
from kworker.plugin import MARK, SCHEDULES, Plugin, TaskSpec
from kworker.task import Task

GROUP = "kworker.plugins"
"""The entry-point group a plugin's distribution declares."""

OVERRIDABLE = frozenset({"timeout", "max_attempts", "concurrency", "reply_to", "retry_in_memory"})
"""The options of @task that `[tasks."name"]` may replace."""

_LOG = logging.getLogger("kworker.registry")
_TEXT_LENGTH = 300
_PATH = re.compile(r" - at `\$\.?([^`]*)`")


class Binder(Protocol):
    """Turns a task's payload into what its function is called with (codecs/arguments.py has the real one)."""

    wants_context: bool

    def bind(self, task: Task) -> tuple[tuple[object, ...], dict[str, object]]:
        """Positional and keyword arguments, without the context; raises DecodeError."""


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """One task of one plugin. `unavailable` says why its records cannot run here; None: they can."""

    spec: TaskSpec
    plugin: str
    distribution: str
    version: str
    signature: Binder
    unavailable: str | None = None

    @property
    def origin(self) -> str:
        """Plugin, distribution and version, as messages name them."""
        return _origin(self.plugin, self.distribution, self.version)

    def route(self) -> Route:
        """What an engine needs to know of it: where it runs, when to give up."""
        spec = self.spec
        policy = RetryPolicy(spec.max_attempts, spec.wait, spec.stop)
        return Route(spec.name, spec.executor, policy, spec.concurrency, spec.retry_in_memory)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point and all its tasks, available or not."""

    name: str
    distribution: str
    version: str
    tasks: tuple[LoadedTask, ...]


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A Plugin that is to be set up: it has what it needs and a task that runs here."""

    origin: str
    plugin: Plugin
    settings: msgspec.Struct | None
    executors: frozenset[str]


class Registry:
    """The tasks by name, and the lifetime of the plugins behind them. Not changed after it was made."""

    def __init__(self, plugins: Iterable[PluginInfo], lifetimes: Iterable[Lifetime] = ()) -> None:
        self.plugins = list(plugins)
        """Every loaded entry point, by name."""
        loaded = [task for plugin in self.plugins for task in plugin.tasks]
        self.tasks = {task.spec.name: task for task in loaded if task.unavailable is None}
        """The tasks that run here."""
        self.unavailable = {task.spec.name: task for task in loaded if task.unavailable is not None}
        """The tasks that are installed but do not run here."""
        self.lifetimes = list(lifetimes)
        """What is to be set up, in this order."""
        self._set_up: list[Lifetime] = []

    @classmethod
    def load(
        cls,
        *,
        allow: Sequence[str] | None,
        settings: Mapping[str, Mapping[str, object]],
        overrides: Mapping[str, Mapping[str, Any]],
        bind: Callable[[TaskSpec], Binder],
        executors: Collection[str],
        entry_points: Iterable[EntryPoint] | None = None,
        telling: Callable[[str], None] = lambda step: None,
        strict: bool = True,
    ) -> Registry:
        """Load the installed plugins.

        allow: entry-point names, None for all. settings: the tables [plugins.*]. overrides: the tables [tasks.*], their
        values as `Config` has read them (a timeout in seconds). bind: compiles a task's signature, raising PluginError.
        executors: kinds that run here. entry_points: instead of the installed ones. telling: told of each step.
        strict: a table of a task that no loaded plugin has is a fault; else it is not looked at.
        Raises PluginError with every fault of the plugins, a line each; else ConfigError with those of the overrides.
        """
        installed = _installed() if entry_points is None else list(entry_points)
        loading = _Loading(settings, overrides, bind, executors)
        for entry_point in _allowed(installed, allow, loading.faults):
            telling(f"{_origin(entry_point.name, *_distribution(entry_point))} is being imported")
            loading.add(entry_point)
        for name in settings.keys() - {entry_point.name for entry_point in installed}:
            _LOG.warning("[plugins.%s]: no plugin of this name is installed", name)
        return loading.registry(strict)

    @classmethod
    def from_specs(cls, specs: Iterable[TaskSpec], bind: Callable[[TaskSpec], Binder]) -> Registry:
        """A registry of these tasks, all available, without entry points: for tests. Raises PluginError."""
        tasks = tuple(LoadedTask(spec, "local", "local", "", bind(spec)) for spec in specs)
        return cls([PluginInfo("local", "local", "", tasks)])

    def setup(
        self, executors: Collection[str] | None = None, telling: Callable[[str], None] = lambda step: None
    ) -> None:
        """Call every plugin's `setup`, once. Raises PluginError after tearing down those already set up.

        executors: only of plugins that have a task for one of these; None is all. telling: told of each step.
        """
        for lifetime in self.lifetimes:
            if executors is not None and not lifetime.executors.intersection(executors):
                continue
            telling(f"setup of {lifetime.origin}")
            try:
                lifetime.plugin.setup(lifetime.settings)
            except BaseException as error:  # a plugin may raise anything; an interrupt goes on below
                _trace(error)
                self.teardown()
                if isinstance(error, KeyboardInterrupt):
                    raise
                faults = error.faults if isinstance(error, ConfigError) else [_text(error)]
                raise PluginError("\n".join(f"{lifetime.origin}: setup failed: {fault}" for fault in faults)) from error
            self._set_up.append(lifetime)

    def teardown(self) -> None:
        """Call `teardown` of every plugin that was set up, the last first; errors are logged. It may block."""
        while self._set_up:
            lifetime = self._set_up.pop()
            try:
                lifetime.plugin.teardown()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit of one plugin must not keep the others from their teardown
                _LOG.exception("%s: teardown failed: %s", lifetime.origin, _text(error))


class _Loading:
    """One `Registry.load`: collects what was found and every fault."""

    def __init__(
        self,
        settings: Mapping[str, Mapping[str, object]],
        overrides: Mapping[str, Mapping[str, Any]],
        bind: Callable[[TaskSpec], Binder],
        executors: Collection[str],
    ) -> None:
        self.faults: list[str] = []
        self._settings = settings
        self._overrides = overrides
        self._bind = bind
        self._executors = executors
        self._plugins: list[PluginInfo] = []
        self._lifetimes: list[Lifetime] = []
        self._owners: dict[str, LoadedTask] = {}

    def add(self, entry_point: EntryPoint) -> None:
        """Load one entry point and the tasks in it."""
        origin = _origin(entry_point.name, *_distribution(entry_point))
        table = self._settings.get(entry_point.name)
        try:
            members = list(_members(entry_point.load()))
            self.faults += _unknown_settings(entry_point.name, table, members)
            tasks = [task for member in members for task in self._member(entry_point, origin, member, table)]
        except KeyboardInterrupt:
            raise
        except _NotAPlugin as error:
            self.faults.append(f"{origin}: {entry_point.value} {error}")
            return
        except BaseException as error:  # an import runs the plugin's code: SystemExit is as likely as ImportError
            _trace(error)
            self.faults.append(f"{origin}: loading {entry_point.value} failed: {_text(error)}{_place(error)}")
            return
        self._plugins.append(PluginInfo(entry_point.name, *_distribution(entry_point), tuple(tasks)))
        waiting = [task.spec.name for task in tasks if task.unavailable == _needs_settings(entry_point.name)]
        if waiting:
            _LOG.info("%s has no settings [plugins.%s]: not offered: %s", origin, entry_point.name, ", ".join(waiting))

    def _member(
        self, entry_point: EntryPoint, origin: str, member: Plugin | TaskSpec, table: Mapping[str, object] | None
    ) -> list[LoadedTask]:
        if isinstance(member, TaskSpec):
            return self._tasks(entry_point, origin, [member], has_settings=True)
        settings, has_settings = None, True
        if member.Settings is not None:
            has_settings = table is not None or not any(f.required for f in msgspec.structs.fields(member.Settings))
            if has_settings:
                try:
                    settings = msgspec.convert(dict(table or {}), member.Settings, strict=True)
                except msgspec.ValidationError as error:
                    self.faults.append(_settings_fault(entry_point.name, error))
        tasks = self._tasks(entry_point, origin, member.tasks(), has_settings=has_settings)
        executors = frozenset(task.spec.executor for task in tasks if task.unavailable is None)
        if has_settings and executors:
            self._lifetimes.append(Lifetime(origin, member, settings, executors))
        return tasks

    def _tasks(
        self, entry_point: EntryPoint, origin: str, specs: Iterable[TaskSpec], *, has_settings: bool
    ) -> list[LoadedTask]:
        loaded = []
        for original in specs:
            options = self._overrides.get(original.name, {})
            spec = replace(original, **{key: value for key, value in options.items() if key in OVERRIDABLE})
            try:
                signature = self._bind(spec)
            except PluginError as error:
                self.faults.append(f"{origin}: {error}")
                continue
            unavailable = None
            if spec.needs_settings and not has_settings:
                unavailable = _needs_settings(entry_point.name)
            elif spec.executor not in self._executors:
                unavailable = f"its executor, {spec.executor}, does not run in this worker"
            task = LoadedTask(spec, entry_point.name, *_distribution(entry_point), signature, unavailable)
            owner = self._owners.setdefault(spec.name, task)
            if owner is task:
                loaded.append(task)
            else:
                self.faults.append(f'{origin}: task "{spec.name}" is already a task of {owner.origin}: rename one')
        return loaded

    def registry(self, strict: bool) -> Registry:
        """What was loaded. Raises PluginError or ConfigError with the collected faults."""
        if self.faults:
            raise PluginError("\n".join(self.faults))
        known = ", ".join(sorted(self._owners)) or "none"
        others = self._overrides.keys() - self._owners.keys()
        lost = sorted(others) if strict else []
        faults = [f'[tasks."{name}"]: no loaded plugin has this task; known: {known}' for name in lost]
        for name, options in self._overrides.items():
            for key in options.keys() - OVERRIDABLE if strict or name not in others else ():
                faults.append(f'[tasks."{name}"] {key}: no such option; known: {", ".join(sorted(OVERRIDABLE))}')
        if faults:
            raise ConfigError(faults)
        return Registry(self._plugins, self._lifetimes)


class _NotAPlugin(Exception):
    """What an entry point names is not what a plugin can be."""


def _installed() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda found: (found.name, _distribution(found)))


def _allowed(found: list[EntryPoint], allow: Sequence[str] | None, faults: list[str]) -> Iterator[EntryPoint]:
    """The entry points to load, one for each name; what is missing or twice there becomes a fault."""
    names = {entry_point.name: entry_point for entry_point in reversed(found)}
    for name in allow or ():
        if name not in names:
            faults.append(f'plugin "{name}" is not installed; installed: {", ".join(sorted(names)) or "none"}')
    for entry_point in found:
        if allow is not None and entry_point.name not in allow:
            continue
        first = names[entry_point.name]
        if entry_point is first:
            yield entry_point
        else:
            others = [_origin(other.name, *_distribution(other)) for other in (first, entry_point)]
            faults.append(f"{others[0]} and {others[1]} have the same name: uninstall one")


def _members(loaded: object) -> Iterator[Plugin | TaskSpec]:
    """What an entry point offers: plugins, created where it names a class, and single tasks."""
    if isinstance(loaded, ModuleType):
        yield from _in_module(loaded)
    elif isinstance(loaded, Plugin):
        yield loaded
    elif isinstance(loaded, type) and issubclass(loaded, Plugin) and loaded is not Plugin:
        yield loaded()
    elif (spec := _marked(loaded)) is not None:
        yield spec
    else:
        raise _NotAPlugin(
            f"is of type {type(loaded).__name__}: name a module, a Plugin or a function marked with @task"
        )


def _in_module(module: ModuleType) -> Iterator[Plugin | TaskSpec]:
    values = {id(value): value for value in vars(module).values()}.values()  # one object under two names counts once
    instances = [value for value in values if isinstance(value, Plugin)]
    classes = [value for value in values if isinstance(value, type) and issubclass(value, Plugin)]
    # A class that another one derives from is a base; one with an instance in the module was created there.
    created = {type(instance) for instance in instances}
    plugins = [
        cls
        for cls in classes
        if not (cls is Plugin or inspect.isabstract(cls))
        and not any(issubclass(other, cls) for other in created.union(classes) - {cls})
        and cls not in created
    ]
    specs = [spec for value in values if (spec := _marked(value)) is not None]
    if not (instances or plugins or specs):
        raise _NotAPlugin("has no function marked with @task and no Plugin")
    yield from instances
    yield from (cls() for cls in plugins)
    yield from specs


def _marked(value: object) -> TaskSpec | None:
    """The task that `value` is, if it was marked with @task."""
    spec = inspect.getattr_static(value, MARK, None)  # static: a lazy object of the plugin's must not be woken
    if not isinstance(spec, TaskSpec):
        if isinstance(inspect.getattr_static(value, SCHEDULES, None), tuple):
            raise _NotAPlugin("has a function with @schedule and without @task: it names no task to publish")
        return None
    if spec.function is not value:
        raise _NotAPlugin(f'has a decorator above @task("{spec.name}"): write @task on top, or it is not run')
    return spec


def _needs_settings(plugin: str) -> str:
    return f"it needs settings: add [plugins.{plugin}] to kworker.toml"


def _unknown_settings(
    name: str, table: Mapping[str, object] | None, members: Iterable[Plugin | TaskSpec]
) -> Iterator[str]:
    """A fault for each key of the table that no plugin of the entry point has."""
    classes = [member.Settings for member in members if isinstance(member, Plugin) and member.Settings is not None]
    known = {field.encode_name for settings in classes for field in msgspec.structs.fields(settings)}
    for key in table or ():
        if key not in known:
            yield f"[plugins.{name}] {key}: no such setting; known: {', '.join(sorted(known)) or 'none'}"


def _settings_fault(name: str, error: msgspec.ValidationError) -> str:
    text = str(error)
    path = _PATH.search(text)
    text = _PATH.sub("", text).replace("`", "")
    return f"[plugins.{name}] {path[1]}: {text}" if path else f"[plugins.{name}]: {text}"


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that declares an entry point."""
    distribution = entry_point.dist
    return (distribution.name, distribution.version) if distribution else ("no distribution", "")


def _origin(plugin: str, distribution: str, version: str) -> str:
    return f'plugin "{plugin}" ({distribution} {version}'.rstrip() + ")"


def _text(error: BaseException) -> str:
    """An exception as one line, cut; its own text may be anything, or fail."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its text cannot be made: {type(broken).__name__})"
    return f"{type(error).__name__}: {' '.join(text.split())[:_TEXT_LENGTH]}"


def _place(error: BaseException) -> str:
    """Where the plugin's own code raised: file and line of the innermost frame outside the import system."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames[1:] else ""


def _trace(error: BaseException) -> None:
    _LOG.debug("trace of %s", _text(error), exc_info=error)
