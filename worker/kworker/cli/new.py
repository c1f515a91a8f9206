"""`kworker plugins new`: writes a plugin that works, with its test, to start from."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path
from string import Template

import click

from kworker.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", re.ASCII)
_LONGEST = 50
_PREFIX = "kworker-"

_PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "kworker plugin: $name"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["kworker-kafka"]

[project.entry-points."kworker.plugins"]
$name = "$module"

[dependency-groups]
dev = ["pytest"]

[tool.hatch.build.targets.wheel]
packages = ["src/$module"]

[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

_MODULE = '''\
"""$distribution: the tasks of the kworker plugin `$name`."""

from __future__ import annotations

from kworker import Context, Reject, task


@task("$name.greet", timeout="30s")
def greet(who: str, *, ctx: Context) -> str:
    """Greet `who`; returns the greeting.

    A task may run more than once for one message, with the same `ctx.id`: make the second run harmless.
    Raises Reject, which makes a dead letter at once, when there is nobody to greet.
    """
    if not who:
        raise Reject("who: there is nobody to greet")
    ctx.log.info("greeting")
    return f"Hello, {who}!"
'''

_TEST = '''\
"""`$name.greet`, run in memory by the real engine: no Kafka is needed."""

from __future__ import annotations

from kworker.testing import MemoryWorker, result_of, run_task

import $module


def test_it_greets() -> None:
    assert result_of(run_task($module.greet, {"who": "Ada"})) == "Hello, Ada!"


def test_nobody_and_nonsense_become_dead_letters() -> None:
    worker = MemoryWorker($module)
    worker.publish("$name.greet", {"who": ""})
    worker.publish("$name.greet", {"whom": "Ada"})
    worker.run()
    assert [letter.reason for letter in worker.dead_letters] == ["rejected", "invalid"]
'''

_README = """\
# $distribution

A plugin of kworker with one task, `$name.greet`.

```
pip install $distribution
kworker publish $name.greet '{"who": "Ada"}'
```

| argument | meaning |
|---|---|
| `who` | whom to greet; nobody is rejected |
"""

_NEXT = """\
Wrote $folder. Next:

  cd $folder
  pip install --editable . pytest
  pytest
  kworker plugins --plugin $name
  kworker dev --plugin $name

The tasks are in src/$module/__init__.py."""


@click.command()
@click.argument("name")
@click.option(
    "--directory", default=".", metavar="PATH", show_default=True, help="Where the plugin's own folder is made."
)
def new(name: str, directory: str) -> None:
    """Write a plugin that works, with its test: the distribution kworker-NAME, in a folder of that name.

    NAME: lower-case letters and digits, parts joined by - or _.
    """
    short = name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(short) or len(short) > _LONGEST:
        raise ConfigError(
            [f"{name[:60]!r} is no name for a plugin: 1 to {_LONGEST} of a-z and 0-9, parts joined by - or _"]
        )
    distribution = _PREFIX + short.replace("_", "-")
    if _installed(distribution):
        raise ConfigError(
            [f"{distribution} is installed here, and pip would replace it by yours: choose another name, or remove it"]
        )
    folder = Path(directory) / distribution
    words = {
        "name": short,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "folder": str(folder),
    }
    _write(folder, {path: Template(text).substitute(words) for path, text in _files(words["module"]).items()})
    click.echo(Template(_NEXT).substitute(words))


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _files(module: str) -> dict[str, str]:
    return {
        "pyproject.toml": _PROJECT,
        "README.md": _README,
        f"src/{module}/__init__.py": _MODULE,
        f"src/{module}/py.typed": "",
        f"tests/test_{module}.py": _TEST,
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    """All of the files in a new folder, or nothing. Raises ConfigError."""
    try:
        folder.mkdir()  # refuses what exists, whatever it is
    except FileExistsError:
        raise ConfigError(
            [f"{folder} exists already: nothing was written; choose another name or --directory"]
        ) from None
    except OSError as error:
        raise ConfigError([f"{folder} cannot be made: {error.strerror}: choose another --directory"]) from None
    try:
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError([f"{folder} cannot be written: {error.strerror}"]) from error
