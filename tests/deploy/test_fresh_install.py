"""The documented installation works where nothing is installed: `pip install . ./plugins/*`."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(str(path.parent) for path in ROOT.glob("plugins/*/pyproject.toml"))
LOADED = """
import json, pathlib, kworker
from importlib.metadata import distribution, entry_points
assert pathlib.Path(kworker.__file__).with_name("py.typed").exists()
assert distribution("kworker-kafka").version == kworker.__version__
print(json.dumps({point.name: point.value for point in entry_points(group="kworker.plugins") if point.load()}))
"""


@pytest.mark.long
def test_worker_and_every_plugin_install_together_and_load(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = str(tmp_path / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", ".", *PLUGINS]
    subprocess.run(install, check=True, cwd=ROOT)
    loaded = subprocess.run([python, "-I", "-c", LOADED], check=True, capture_output=True, text=True, cwd=tmp_path)
    described = [tomllib.loads(Path(plugin, "pyproject.toml").read_text())["project"] for plugin in PLUGINS]
    points = [project["entry-points"]["kworker.plugins"] for project in described]
    assert json.loads(loaded.stdout) == {name: value for group in points for name, value in group.items()}
    assert (tmp_path / "bin" / "kworker").exists()
