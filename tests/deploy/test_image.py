"""The image: its Dockerfile, what is locked into it, and its file tree, where a worker has nothing to write to.

There is no Docker here. The Dockerfile's own commands are run as they stand in a tree of their own (kit/image_tree.py).
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path

import psutil
import pytest
import yaml
from packaging.requirements import Requirement

from kit import Kafka, MakeTopic, charttools
from kit.image_tree import ImageTree, Step, missing, steps
from kit.leash import leashed
from kworker import Client
from lock import licences

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
LOCKS = sorted((ROOT / "deploy" / "lock").glob("*.txt"))
PAGE = (ROOT / "docs" / "how-to" / "image.md").read_text("utf-8")
OURS = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")} | {"kworker-kafka"}
DEADLINE = 60.0

pytestmark = pytest.mark.timeout(1200)  # distributions are fetched, and tools are built once

BUILD, FINAL = steps(DOCKERFILE.read_text("utf-8"))


def stage_values(stage: list[Step], instruction: str) -> list[str]:
    return [step.value for step in stage if step.instruction == instruction]


# -- the Dockerfile -----------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [hadolint, "--failure-threshold", "warning", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_it_copies_what_exists_and_what_the_ignore_file_lets_in() -> None:
    sources = [source for value in stage_values(BUILD, "COPY") for source in value.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {line[1:] for line in IGNORED if line.startswith("!")} == set(sources)
    assert stage_values(FINAL, "COPY") == ["--from=build /image /usr/local"]


def test_it_runs_kworker_as_nobody_in_particular_and_says_what_it_is() -> None:
    assert FINAL[-1] == ("ENTRYPOINT", '["kworker"]')  # no shell before it: it is process 1
    assert stage_values(FINAL, "USER") == ["65532:65532"]
    (labels,) = stage_values(FINAL, "LABEL")
    told = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", labels))
    assert told == {"title", "description", "licenses", "version", "revision", "base.name"}


def test_both_stages_stand_on_one_base_that_can_be_pinned_and_a_release_does_so() -> None:
    text = DOCKERFILE.read_text("utf-8")
    bases = [step.value.split()[0] for stage in (BUILD, FINAL) for step in stage if step.instruction == "FROM"]
    assert bases == ["python:${PYTHON}-slim${BASE_DIGEST}"] * 2
    (version,) = re.findall(r"^ARG PYTHON=(.+)$", text, re.M)
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    assert f"docker.io/library/python:{version}-slim " in release
    assert "BASE_DIGEST=@${{ steps.base.outputs.digest }}" in release


def test_what_is_fetched_is_checked_by_hash_and_all_else_is_done_offline() -> None:
    commands = [line for value in stage_values(BUILD, "RUN") for line in value.split("&&")]
    installing = [line for line in commands if re.search(r"pip (install|download|wheel)", line)]
    assert len(installing) == 4
    for line in installing:
        assert "--no-index" in line or {"--require-hashes", "--only-binary=:all:"} <= set(line.split()), line
    assert not re.search(r"pip install|apt-get|curl|wget", " ".join(stage_values(FINAL, "RUN")))


# -- what is locked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_part_has_hashes_and_is_the_one_that_the_tests_run_on(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text("utf-8").strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+ .*\\\n +--hash=sha256:[0-9a-f]{64}\b", entry), entry[:100]
    constraints = set(licences.pins((ROOT / "constraints.txt").read_text("utf-8")))
    assert set(licences.pins(lock.read_text("utf-8"))) - constraints == set(), "make lock"


def test_the_lock_holds_all_that_the_worker_and_its_plugins_need() -> None:
    locked = dict(licences.pins(licences.LOCK.read_text("utf-8")))
    waiting = [(name, {"otel", "uvloop"} if name == "kworker-kafka" else set()) for name in OURS]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        for line in requires(name) or []:
            need = Requirement(line)
            wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})
            place = need.name.lower().replace("_", "-")
            if not wanted or place in OURS or place in seen:
                continue
            assert need.specifier.contains(locked[place]), f"{name} needs {need}"
            seen.add(place)
            waiting.append((place, set(need.extras)))
    assert seen == {*locked}


def test_every_licence_is_known_and_decided_on() -> None:
    found = licences.parts()
    assert {one.name: one.undecided() for one in found if one.undecided()} == {}
    assert licences.LIST.read_text("utf-8") == licences.listed(found), "make lock"
    assert {name for name, _ in licences.DECIDED} <= {one.name for one in found}


@pytest.mark.parametrize("licence", ["", "GPL-3.0-or-later", "MIT OR LGPL-2.1-only", "MPL-2.0", "Do what you want"])
def test_a_licence_that_nobody_decided_on_is_found(licence: str) -> None:
    assert licences.Part("other", "1", licence).undecided() != []


def test_the_volume_of_plugins_is_what_the_chart_and_kubernetes_take() -> None:
    (values,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    chart = ROOT / "deploy" / "helm" / "kworker"
    made = charttools.run("helm", "template", "r", chart, "--kube-version=1.33.0", "-f", "-", given=values)
    assert made.returncode == 0, made.stderr
    places = [part for place in charttools.schemas() for part in ("-schema-location", place)]
    answer = charttools.run("kubeconform", "-strict", *places, given=made.stdout)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (pod,) = (
        one["spec"]["template"]["spec"]
        for one in yaml.safe_load_all(made.stdout)
        if one and one["kind"] == "Deployment" and one["metadata"]["name"].endswith("ours")
    )
    volumes = {volume["name"] for volume in pod["volumes"]}
    (first,) = pod["initContainers"]
    assert {mount["name"] for mount in first["volumeMounts"]} <= volumes
    (environ,) = stage_values(FINAL, "ENV")
    assert "PYTHONUSERBASE=/plugins" in environ.split()
    assert {"name": "plugins", "mountPath": "/plugins", "readOnly": True} in pod["containers"][0]["volumeMounts"]


# -- its file tree ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageTree]:
    """The tree that the Dockerfile makes."""
    if why := missing():
        pytest.skip(f"the tree of the image cannot be made here: {why}")
    folder = tmp_path_factory.mktemp("image")
    ignored = [line for line in IGNORED if line and line[0] not in "#!" and line != "*"]
    build = ImageTree(folder / "build", ROOT, ignored)
    build.build(BUILD)
    image = ImageTree(folder / "image", ROOT)
    image.build(FINAL, {"VERSION": "test"}, build=build)
    yield image
    shutil.rmtree(folder)  # hundreds of MiB


def asked(tree: ImageTree, *command: str) -> str:
    """What a command says in the tree, as a pod would run it."""
    done = subprocess.run(tree.command(command), capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(tree: ImageTree, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, as process 1 of the tree."""
    with log.open("wb") as output:
        process = subprocess.Popen(leashed(*tree.command([*tree.entrypoint, *arguments])), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_user_can_write_to_the_temporary_directory_only(image: ImageTree) -> None:
    look = "find / \\( -path /proc -o -path '/dev/*' \\) -prune -o -writable ! -type l -print 2> /dev/null || true"
    assert asked(image, "sh", "-c", f"id -u; {look}").split() == ["65532", "/tmp"]
    assert "CapEff:\t0000000000000000" in asked(image, "cat", "/proc/self/status")


def test_it_lists_its_parts_and_they_are_the_locked_ones(image: ImageTree) -> None:
    bill = json.loads(asked(image, "cat", "/usr/local/share/kworker/sbom.cdx.json"))
    listed = {one["name"].lower().replace("_", "-"): one for one in bill["components"]}
    locked = dict(licences.pins(licences.LOCK.read_text("utf-8")))
    assert {name: listed[name]["version"] for name in locked} == locked
    assert listed.keys() - locked.keys() - OURS <= {"pip", "setuptools"}  # of the base image
    assert listed.keys() >= OURS


def test_check_is_content_in_it(image: ImageTree, kafka: Kafka, topic: MakeTopic) -> None:
    said = asked(image, "kworker", "check", "--group", "image", "--topic", topic(), "--bootstrap", kafka.bootstrap)
    assert "FAIL" not in said
    assert all(f"plugin {name}" in said for name in ("email", "http", "image", "shell", "sql"))


def test_a_worker_in_it_runs_a_task_and_drains(
    image: ImageTree, kafka: Kafka, topic: MakeTopic, tmp_path: Path
) -> None:
    tasks, replies = topic(), topic()
    given = image.folder / "root" / "work" / "kworker.toml"  # as a config map would be mounted
    given.write_text('[plugins.shell.commands.who]\nargv = ["sh", "-c", "id -u; touch /tmp/here && ls /tmp"]\n')
    arguments = ["--group", f"image-{uuid.uuid4().hex[:8]}", "--topic", tasks, "--reply-topic", replies]
    arguments += ["--bootstrap", kafka.bootstrap, "--config", "kworker.toml", "--admin-port", "0"]
    with running(image, tmp_path / "log", *arguments) as process:
        with Client(kafka.bootstrap, topic=tasks, reply_topic=replies) as client:
            answer = client.call("shell.run", {"command": "who"}, timeout="60s")
        assert (answer["exit"], answer["stdout"]) == (0, "65532\nhere\n"), answer
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, (tmp_path / "log").read_text()


def test_two_lines_on_top_add_a_plugin(image: ImageTree, kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    """Those of docs/how-to/image.md, with the wheel of a plugin that `kworker plugins new` wrote."""
    new = [sys.executable, "-m", "kworker", "plugins", "new", "hello"]
    subprocess.run(new, cwd=tmp_path, check=True, capture_output=True)
    (written,) = tmp_path.rglob("src/*/__init__.py")
    text = written.read_text()
    assert text.count('timeout="30s"') == 1
    written.write_text(text.replace('timeout="30s"', 'timeout="30s", executor="process"'))
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    wheel += ["--wheel-dir", str(tmp_path / "dist"), str(written.parents[2])]
    subprocess.run(wheel, check=True, capture_output=True)

    (stage,) = steps(re.findall(r"```dockerfile\n(.*?)```", PAGE, re.S)[0])
    assert [step.instruction for step in stage] == ["FROM", "RUN"]
    image.context = tmp_path
    image.build(stage)

    tasks, replies = topic(), topic()
    arguments = ["--group", f"image-{uuid.uuid4().hex[:8]}", "--topic", tasks, "--reply-topic", replies]
    arguments += ["--bootstrap", kafka.bootstrap, "--plugin", "hello", "--processes", "1", "--admin-port", "0"]
    with (
        running(image, tmp_path / "log", *arguments),
        Client(kafka.bootstrap, topic=tasks, reply_topic=replies) as client,
    ):
        assert "you" in client.call("hello.greet", {"who": "you"}, timeout="60s")
