"""The workflows of continuous integration and of a release: what they name exists, and nobody can change it unseen."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit import charttools

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

pytestmark = pytest.mark.timeout(1200)  # actionlint is built once


def jobs(name: str) -> dict[str, Any]:
    """The jobs of a workflow by name."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text("utf-8"))["jobs"]
    return found


def commands() -> Iterator[str]:
    """Every command that a workflow runs."""
    for path in FILES:
        for job in jobs(path.stem).values():
            for step in job.get("steps", []):
                if "run" in step:
                    yield step["run"]


def test_actionlint_finds_nothing() -> None:
    assert [path.stem for path in FILES] == ["ci", "release"]
    found = charttools.run("actionlint", *FILES)
    assert found.returncode == 0, found.stdout + found.stderr


def test_actions_are_pinned_by_their_commits() -> None:
    for path in FILES:
        for used in re.findall(r"uses: (.*)", path.read_text("utf-8")):
            if used.startswith("./"):
                assert (ROOT / used).is_file(), used
            else:
                assert PINNED.fullmatch(used), used


def test_commands_make_what_there_is_to_make() -> None:
    wanted = {
        target for line in commands() for made in re.findall(r"^make (.+)$", line, re.M) for target in made.split()
    }
    assert {"check", "unit", "test", "dist"} <= wanted
    subprocess.run(["make", "--dry-run", *wanted], cwd=ROOT, check=True, capture_output=True)
    named = {ROOT / word for line in commands() for word in re.findall(r"\bdeploy/\S+", line)}
    assert named
    assert [path for path in named if not path.exists()] == []


def test_nothing_from_outside_is_put_into_a_command() -> None:
    assert [line for line in commands() if "${{" in line] == []


def test_a_release_waits_for_the_tests_and_has_no_more_rights_than_each_step_needs() -> None:
    workflow = yaml.safe_load((FOLDER / "release.yml").read_text("utf-8"))
    assert workflow["permissions"] == {}
    release = workflow["jobs"]

    def before(name: str) -> set[str]:
        needs = release[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    assert all("test" in before(name) for name in release.keys() - {"test"})
    assert before("release") == release.keys() - {"release"}
    assert {name for name, job in release.items() if "environment" in job} == {"publish", "image"}
    signing = {name for name, job in release.items() if "id-token" in job["permissions"]}
    assert signing == {"distributions", "publish", "image"}
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in str({**release, "image": None})  # only the token of the run itself, to log in with
    assert re.findall(r"secrets\.(\w+)", str(release["image"])) == ["GITHUB_TOKEN"]


def test_the_published_chart_names_the_published_image(tmp_path: Path) -> None:
    lines = [line.strip() for command in commands() for line in command.splitlines()]
    written = [line for line in lines if line.startswith(("sed -i ", "grep -qxF "))]
    assert len(written) == 2  # the second says that the first did it
    chart = tmp_path / "deploy" / "helm" / "kworker"
    shutil.copytree(ROOT / "deploy" / "helm" / "kworker", chart)
    script = "set -e; IMAGE=registry.example.org/us/kworker; " + "; ".join(written)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    made = charttools.run("helm", "template", "r", chart, "--kube-version=1.33.0", "-f", "-", given="workers: {x: {}}")
    assert "image: registry.example.org/us/kworker:" in made.stdout, made.stderr
    assert any("${GITHUB_REPOSITORY,,}" in line for line in lines)  # a repository's name may have capitals
