"""`kworker plugins new`: what it writes is a plugin that works, by its own test and by every tool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kworker import cli

ROOT = Path(__file__).parents[2]
RULES = "E,F,W,I,UP,B,C4,SIM,RUF,PT,PTH,ANN,D1"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        cli.main(["plugins", *arguments])
    return int(exit.value.code or 0)


def says(folder: Path, *command: str) -> str:
    """What a tool says in the folder; it must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker"), "MYPYPATH": f"src{os.pathsep}{ROOT / 'worker'}"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("name", "distribution", "entry_point"),
    [("thumbs", "kworker-thumbs", "thumbs"), ("kworker-red_2-x", "kworker-red-2-x", "red_2-x")],
)
def test_what_it_writes_passes_its_own_test_and_every_tool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, distribution: str, entry_point: str
) -> None:
    assert run("new", name, "--directory", str(tmp_path)) == 0
    folder = tmp_path / distribution
    assert f"cd {folder}\n" in capsys.readouterr().out
    assert "2 passed" in says(folder, "pytest", "-q", "-p", "no:cacheprovider")
    says(folder, "ruff", "check", "--isolated", "--no-cache", "--line-length=120", f"--select={RULES}", "src")
    says(
        folder, "ruff", "check", "--isolated", "--no-cache", "--line-length=120", "--select=E,F,W,I,UP,PT,ANN", "tests"
    )
    says(folder, "ruff", "format", "--isolated", "--no-cache", "--line-length=120", "--check", "src", "tests")
    says(folder, "mypy", "--strict", f"--cache-dir={os.devnull}", "src", "tests")
    assert not [path for path in folder.rglob("*") if path.is_file() and "$" in path.read_text("utf-8", "ignore")]


def test_a_worker_finds_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", "thumbs") == 0
    site = tmp_path / "site"
    shutil.copytree("kworker-thumbs/src", site)
    info = site / "kworker_thumbs-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kworker-thumbs\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[kworker.plugins]\nthumbs = kworker_thumbs\n")
    project = Path("kworker-thumbs/pyproject.toml").read_text()
    assert '[project.entry-points."kworker.plugins"]\nthumbs = "kworker_thumbs"\n' in project
    monkeypatch.syspath_prepend(str(site))
    capsys.readouterr()
    assert run("--plugin", "thumbs", "--json") == 0
    ((task,),) = [plugin["tasks"] for plugin in json.loads(capsys.readouterr().out)]
    assert (task["name"], task["timeout"], task["available"]) == ("thumbs.greet", 30.0, True)


@pytest.mark.parametrize("name", ["kafka", "sql"])  # kworker-kafka is kworker itself
def test_a_name_that_pip_would_replace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run("new", name, "--directory", str(tmp_path)) == 2
    assert f"kworker-{name} is installed here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", "Thumbs", "1st", "a b", "../a", "a/b", "a--b", "-", "a-", "ä", "a" * 51, "a\n", "a.b"]
)
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run("new", "--directory", str(tmp_path), "--", name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no name for a plugin" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    place = tmp_path / "kworker-thumbs"
    if kind == "link":
        place.symlink_to("nowhere")
    else:
        (place.touch if kind == "file" else place.mkdir)()
    assert run("new", "thumbs", "--directory", str(tmp_path)) == 2
    assert "exists already: nothing was written" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [place]


def test_a_directory_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "thumbs", "--directory", str(tmp_path / "nowhere")) == 2
    assert "choose another --directory" in capsys.readouterr().err
