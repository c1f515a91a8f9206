"""Discovery of plugins, their faults, their settings and their lifetime (FAULTS.md, bad input 36)."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, Protocol

import pytest

from kworker import ConfigError, PluginError, TaskSpec, task
from kworker.plugin import MARK
from kworker.registry import GROUP, Registry
from kworker.task import Task


class Recorded:
    """A binder that binds nothing."""

    wants_context = False

    def __init__(self, spec: TaskSpec) -> None:
        if "unbindable" in spec.name:
            raise PluginError(f'task "{spec.name}": cannot be bound')

    def bind(self, task: Task) -> tuple[tuple[object, ...], dict[str, object]]:
        return (), {}


class Install(Protocol):
    """Installs a distribution of one module; returns nothing: `load` finds it."""

    def __call__(self, name: str, code: str, entry_points: str = "", version: str = "1.0") -> None: ...


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture
def install(site: Path) -> Install:
    def install(name: str, code: str, entry_points: str = "", version: str = "1.0") -> None:
        (site / f"{name}.py").write_text(f"from kworker import *\nimport kworker, msgspec\n{code}\n")
        info = site / f"{name}_dist-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points or f'{name} = {name}'}\n")

    return install


@pytest.fixture
def load(site: Path) -> Callable[..., Registry]:
    def load(
        allow: Sequence[str] | None = None,
        settings: Mapping[str, Mapping[str, object]] = {},
        overrides: Mapping[str, Mapping[str, Any]] = {},
        executors: Sequence[str] = ("thread",),
    ) -> Registry:
        found = [
            entry_point
            for distribution in sorted(distributions(path=[str(site)]), key=lambda d: d.name)
            for entry_point in distribution.entry_points
        ]
        return Registry.load(
            allow=allow,
            settings=settings,
            overrides=overrides,
            bind=Recorded,
            executors=executors,
            entry_points=found,
        )

    return load


Load = Callable[..., Registry]
TWO_TASKS = "@task('a.one')\ndef one(): ...\n@task('a.two')\ndef two(): ..."
WITH_SETTINGS = """
class Settings(msgspec.Struct):
    url: str
    allow: list[str] = []

class Remote(Plugin):
    Settings = Settings
    seen = []
    @task('remote.send')
    def send(self): ...
    @task('remote.ping', needs_settings=False)
    def ping(self): ...
    def setup(self, settings): self.seen.append(settings)
    def teardown(self): self.seen.append('down')
"""


def faults(load: Load, **options: Any) -> list[str]:
    with pytest.raises(PluginError) as caught:
        load(**options)
    return str(caught.value).splitlines()


def test_a_module_offers_its_tasks_defined_or_imported(install: Install, load: Load) -> None:
    install("library", "@task('lib.made')\ndef made(): ...", "unused = nowhere")
    install("a", f"from library import made\nagain = made\n{TWO_TASKS}")
    registry = load(allow=["a"])
    assert set(registry.tasks) == {"lib.made", "a.one", "a.two"}
    found = registry.tasks["a.one"]
    assert (found.plugin, found.distribution, found.version, found.unavailable) == ("a", "a-dist", "1.0", None)
    assert found.spec.function is sys.modules["a"].one
    assert isinstance(found.signature, Recorded)


def test_a_plugin_class_an_instance_or_a_function_can_be_named(install: Install, load: Load) -> None:
    code = """
class Group(Plugin):
    def __init__(self, prefix='x'): self.prefix = prefix
    @task('group.run')
    def run(self): return self.prefix
class Other(Plugin):
    @task('other.run')
    def run(self): return 'other'
other = Other()
@task('single')
def single(): ...
@task('not offered')
def not_offered(): ...
"""
    install("a", code, "g = a:Group\no = a:other\ns = a:single")
    registry = load()
    assert set(registry.tasks) == {"group.run", "other.run", "single"}
    assert registry.tasks["group.run"].spec.function() == "x"
    assert [(plugin.name, len(plugin.tasks)) for plugin in registry.plugins] == [("g", 1), ("o", 1), ("s", 1)]


def test_plugins_of_a_module_are_created_once_and_bases_never(install: Install, load: Load) -> None:
    code = """
created = []
class Base(Plugin):
    def __init__(self): created.append(type(self).__name__)
    @task('shared')
    def shared(self): ...
class Derived(Base): ...
class Ready(Plugin):
    def __init__(self): created.append(type(self).__name__)
    @task('ready')
    def ready(self): ...
ready = Ready()
alias = ready
"""
    install("a", code)
    assert set(load().tasks) == {"shared", "ready"}
    assert sorted(sys.modules["a"].created) == ["Derived", "Ready"]


def test_the_allow_list_names_what_is_loaded(install: Install, load: Load) -> None:
    install("a", TWO_TASKS)
    install("b", "raise RuntimeError('not on the list, so never imported')")
    assert set(load(allow=["a"]).tasks) == {"a.one", "a.two"}
    assert load(allow=[]).tasks == {}
    assert "b" not in sys.modules
    assert faults(load, allow=["a", "c"]) == ['plugin "c" is not installed; installed: a, b']


def test_without_plugins_the_registry_is_empty(load: Load) -> None:
    assert load().tasks == {}
    assert faults(load, allow=["x"]) == ['plugin "x" is not installed; installed: none']


def test_the_installed_plugins_are_found(install: Install) -> None:
    install("a", TWO_TASKS)
    registry = Registry.load(allow=["a"], settings={}, overrides={}, bind=Recorded, executors={"thread"})
    assert set(registry.tasks) == {"a.one", "a.two"}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import missing_library", "ModuleNotFoundError: No module named 'missing_library' at .*broken.py:3"),
        ("raise SystemExit(3)", "SystemExit: 3 at .*broken.py:3"),
        ("class E(BaseException): ...\nraise E('a\\nb')", "E: a b at .*broken.py:4"),
        (
            "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
            "E: \\(its text cannot be made: ValueError\\) at .*",
        ),
        ("def broken(:", "SyntaxError: .*"),
        ("@task('')\ndef f(): ...", "ValueError: @task: '' is not a task name: .* at .*"),
        ("class P(Plugin):\n  def __init__(self): 1/0", "ZeroDivisionError: .* at .*broken.py:4"),
        ("class P(Plugin):\n  def tasks(self): 1/0", "ZeroDivisionError: .* at .*broken.py:4"),
    ],
)
def test_whatever_an_import_raises_is_a_fault_with_its_place(
    install: Install, load: Load, code: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "kworker.registry")
    install("broken", code)
    (line,) = faults(load)
    assert re.fullmatch(rf'plugin "broken" \(broken-dist 1\.0\): loading broken failed: {text}', line), line
    assert any(record.exc_info for record in caplog.records)


def test_a_keyboard_interrupt_is_none(install: Install, load: Load) -> None:
    install("a", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load()


def test_all_faults_are_told_at_once(install: Install, load: Load) -> None:
    install("a", TWO_TASKS)
    install("b", "@task('a.one')\ndef other(): ...", version="2.0")
    install("c", "x = 1")
    install("d", "x = 1", "d = d:x")
    install("e", "@task('unbindable')\ndef f(): ...")
    install("f", "import functools\n@functools.cache\n@task('f.cached')\ndef f(): ...")
    install("g", "", "g = g.nowhere:thing")
    assert faults(load, overrides={"nowhere": {}}) == [
        'plugin "b" (b-dist 2.0): task "a.one" is already a task of plugin "a" (a-dist 1.0): rename one',
        'plugin "c" (c-dist 1.0): c has no function marked with @task and no Plugin',
        'plugin "d" (d-dist 1.0): d:x is of type int: name a module, a Plugin or a function marked with @task',
        'plugin "e" (e-dist 1.0): task "unbindable": cannot be bound',
        'plugin "f" (f-dist 1.0): f has a decorator above @task("f.cached"): write @task on top, or it is not run',
        "plugin \"g\" (g-dist 1.0): loading g.nowhere:thing failed: ModuleNotFoundError: No module named 'g.nowhere'; "
        "'g' is not a package",
    ]


def test_an_entry_point_name_belongs_to_one_distribution(install: Install, load: Load) -> None:
    install("a", TWO_TASKS, "same = a")
    install("b", "", "same = b", version="2.0")
    assert faults(load) == [
        'plugin "same" (a-dist 1.0) and plugin "same" (b-dist 2.0) have the same name: uninstall one'
    ]


def test_a_plugin_without_the_settings_it_needs_offers_the_rest(
    install: Install, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kworker.registry")
    install("remote", WITH_SETTINGS)
    registry = load()
    assert set(registry.tasks) == {"remote.ping"}
    assert set(registry.unavailable) == {"remote.send"}
    assert registry.unavailable["remote.send"].unavailable == "it needs settings: add [plugins.remote] to kworker.toml"
    assert caplog.messages == [
        'plugin "remote" (remote-dist 1.0) has no settings [plugins.remote]: not offered: remote.send'
    ]
    registry.setup()
    registry.teardown()
    assert sys.modules["remote"].Remote.seen == []


def test_settings_are_read_and_reach_setup_once(install: Install, load: Load) -> None:
    install("remote", WITH_SETTINGS)
    registry = load(settings={"remote": {"url": "u", "allow": ["x"]}})
    assert set(registry.tasks) == {"remote.send", "remote.ping"}
    assert not registry.unavailable
    registry.setup()
    module = sys.modules["remote"]
    assert module.Remote.seen == [module.Settings("u", ["x"])]
    registry.teardown()
    registry.teardown()
    assert module.Remote.seen[1:] == ["down"]


def test_settings_that_all_have_defaults_need_no_table(install: Install, load: Load) -> None:
    install("remote", WITH_SETTINGS.replace("url: str", "url: str = 'd'"))
    registry = load()
    registry.setup()
    assert set(registry.tasks) == {"remote.send", "remote.ping"}
    assert sys.modules["remote"].Remote.seen[0].url == "d"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"url": "u", "allow": "x"}, ["[plugins.remote] allow: Expected array, got str"]),
        ({"url": "u", "allow": [1]}, ["[plugins.remote] allow[0]: Expected str, got int"]),
        ({"url": 1}, ["[plugins.remote] url: Expected str, got int"]),
        ({}, ["[plugins.remote]: Object missing required field url"]),
        ({"url": "u", "alow": []}, ["[plugins.remote] alow: no such setting; known: allow, url"]),
    ],
)
def test_settings_that_do_not_fit(install: Install, load: Load, table: dict[str, Any], expected: list[str]) -> None:
    install("remote", WITH_SETTINGS)
    assert faults(load, settings={"remote": table}) == expected


def test_settings_for_a_plugin_that_has_none(install: Install, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    install("a", TWO_TASKS)
    assert faults(load, settings={"a": {"x": 1}}) == ["[plugins.a] x: no such setting; known: none"]
    load(settings={"elsewhere": {"x": 1}})
    assert caplog.messages == ["[plugins.elsewhere]: no plugin of this name is installed"]


def test_overrides_replace_the_options_of_a_task(install: Install, load: Load) -> None:
    install("a", TWO_TASKS)
    registry = load(overrides={"a.one": {"timeout": 30.0, "max_attempts": 2, "concurrency": 4, "reply_to": "r"}})
    spec = registry.tasks["a.one"].spec
    assert (spec.timeout, spec.max_attempts, spec.concurrency, spec.reply_to) == (30.0, 2, 4, "r")
    assert registry.tasks["a.two"].spec.timeout == 300.0


def test_overrides_that_hit_nothing_are_faults_of_the_configuration(install: Install, load: Load) -> None:
    install("a", TWO_TASKS)
    with pytest.raises(ConfigError) as caught:
        load(overrides={"a.oen": {"timeout": 1.0}, "a.one": {"function": print}})
    assert caught.value.faults == [
        '[tasks."a.oen"]: no loaded plugin has this task; known: a.one, a.two',
        '[tasks."a.one"] function: no such option; '
        "known: concurrency, max_attempts, reply_to, retry_in_memory, timeout",
    ]


def test_a_task_whose_executor_is_missing_keeps_nothing_from_starting(install: Install, load: Load) -> None:
    code = """
class Group(Plugin):
    @task('group.slow', executor='process')
    def slow(self): ...
    @task('group.async')
    async def later(self): ...
    def setup(self, settings): raise RuntimeError('none of its tasks runs here')
@task('plain')
def plain(): ...
"""
    install("a", code)
    registry = load()
    assert set(registry.tasks) == {"plain"}
    assert {name: found.unavailable for name, found in registry.unavailable.items()} == {
        "group.slow": "its executor, process, does not run in this worker",
        "group.async": "its executor, coroutine, does not run in this worker",
    }
    registry.setup()
    assert len(registry.plugins[0].tasks) == 3
    assert not load(executors=("thread", "process", "coroutine")).unavailable


LIFETIMES = """
calls = []
class First(Plugin):
    @task('first')
    def run(self): ...
    def setup(self, settings): calls.append(('first', settings))
    def teardown(self):
        calls.append('first down')
        raise SystemExit('first cannot end')
class Second(Plugin):
    @task('second')
    def run(self): ...
    def setup(self, settings): calls.append('second')
    def teardown(self): calls.append('second down')
class Third(Plugin):
    @task('third')
    def run(self): ...
    def setup(self, settings):
        if failure: raise failure
        calls.append('third')
failure = None
"""


def test_teardown_runs_backwards_and_an_error_stops_no_other(
    install: Install, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    install("a", LIFETIMES)
    registry = load()
    registry.setup()
    registry.teardown()
    assert sys.modules["a"].calls == [("first", None), "second", "third", "second down", "first down"]
    assert caplog.messages == ['plugin "a" (a-dist 1.0): teardown failed: SystemExit: first cannot end']


@pytest.mark.parametrize("failure", [RuntimeError("no network"), SystemExit("no network")])
def test_a_failing_setup_tears_down_what_was_set_up(install: Install, load: Load, failure: BaseException) -> None:
    install("a", LIFETIMES)
    registry = load()
    vars(sys.modules["a"])["failure"] = failure
    with pytest.raises(PluginError) as caught:
        registry.setup()
    assert str(caught.value) == f'plugin "a" (a-dist 1.0): setup failed: {type(failure).__name__}: no network'
    assert sys.modules["a"].calls == [("first", None), "second", "second down", "first down"]


def test_every_fault_that_a_setup_finds_is_a_line_of_its_own_and_none_is_cut(install: Install, load: Load) -> None:
    install("a", LIFETIMES)
    registry = load()
    faults = ["a.sender: " + "x" * 400, "a.allow: it is empty"]
    vars(sys.modules["a"])["failure"] = ConfigError(faults)
    with pytest.raises(PluginError) as caught:
        registry.setup()
    assert str(caught.value).splitlines() == [f'plugin "a" (a-dist 1.0): setup failed: {fault}' for fault in faults]


def test_an_interrupt_in_setup_goes_on_after_the_teardown(install: Install, load: Load) -> None:
    install("a", LIFETIMES)
    registry = load()
    vars(sys.modules["a"])["failure"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        registry.setup()
    assert sys.modules["a"].calls[-1] == "first down"


@pytest.mark.parametrize("name", ["A.ONE", "a.one ", "../a.one", "__class__", "а.one", "a.one\x00", ""])  # noqa: RUF001  # the look-alike is the test
def test_a_name_is_a_task_only_as_it_is_written(install: Install, load: Load, name: str) -> None:
    install("a", TWO_TASKS)
    registry = load()
    modules = set(sys.modules)
    assert registry.tasks.get(name) is None
    assert set(sys.modules) == modules


def test_an_entry_point_without_a_distribution() -> None:
    found = EntryPoint("x", "no_such_module_anywhere", GROUP)
    with pytest.raises(PluginError, match=r'^plugin "x" \(no distribution\): loading no_such_module_anywhere failed'):
        Registry.load(allow=None, settings={}, overrides={}, bind=Recorded, executors=(), entry_points=[found])


def test_a_registry_from_specs() -> None:
    @task("local.one")
    def one() -> None: ...

    registry = Registry.from_specs([getattr(one, MARK)], Recorded)
    assert registry.tasks["local.one"].spec.function is one
    registry.setup()
    registry.teardown()
