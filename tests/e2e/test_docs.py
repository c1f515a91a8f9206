"""The documentation is true: its pages are followed on a real Kafka, its code is checked, the site is built of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from confluent_kafka.admin import AdminClient

from kit import Broker, create_topic, wait_for
from kit.document import Block, Document
from kit.reader import Reader
from kworker.config import Config
from kworker.config.options import OPTIONS
from kworker.errors import ConfigError
from kworker.kafka.settings import faults
from kworker.metric_table import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OTHERS = {"design.md", "faults.md", "benchmarks.md", "cluster.md"}
"""Pages for developers, whose commands are those of `make`."""

PAGES = {str(path.relative_to(DOCS)): Document(path) for path in sorted(DOCS.rglob("*.md")) if path.name not in OTHERS}
FOLLOWED = [name for name, page in PAGES.items() if page.commands()]


def blocks(kind: str) -> list[tuple[str, Block]]:
    """Every block of this kind that is meant to work, with its place."""
    return [(f"{n}:{b.line}", b) for n, page in PAGES.items() for b in page.blocks if b.kind == kind and not b.why]


@pytest.fixture(scope="module")
def own_broker() -> Iterator[Broker]:
    """A broker for this module: the pages' topics and groups have fixed names."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def cleared(own_broker: Broker) -> Broker:
    """The same broker with the two topics that every page may use, and nothing else of an earlier page."""
    admin = AdminClient({"bootstrap.servers": own_broker.bootstrap})
    groups = [group.group_id for group in admin.list_consumer_groups().result(10).valid]
    for done in admin.delete_consumer_groups(groups).values() if groups else ():
        done.result(10)
    topics = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]
    for done in admin.delete_topics(topics).values() if topics else ():
        done.result(10)
    wait_for(lambda: not set(topics) & set(admin.list_topics(timeout=10).topics), 30, "the topics to be gone")
    create_topic(own_broker.bootstrap, "tasks")
    create_topic(own_broker.bootstrap, "replies")
    return own_broker


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_page_is_followed(name: str, tmp_path: Path, cleared: Broker) -> None:
    with Reader(PAGES[name], tmp_path, cleared.bootstrap) as reader:
        reader.follow()


def test_python_compiles_and_is_typed(tmp_path: Path) -> None:
    found = blocks("python")
    assert found
    for number, (_, block) in enumerate(found):
        (tmp_path / f"block_{number}.py").write_text(block.text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--ignore-missing-imports",
            "--allow-untyped-defs",
            "--disable-error-code=empty-body",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    places = "\n".join(f"block_{number}: {place}" for number, (place, _) in enumerate(found))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{places}"


def test_python_that_is_not_run_compiles() -> None:
    for name, page in PAGES.items():
        for block in page.blocks:
            if block.kind == "python" and block.why:
                compile(block.text, f"{name}:{block.line}", "exec")


def test_values_fit_the_chart() -> None:
    schema = json.loads((ROOT / "deploy/helm/kworker/values.schema.json").read_text("utf-8"))
    found = [block for _, block in blocks("yaml") if block.path == "values.yaml"]
    assert found
    for block in found:
        jsonschema.validate(yaml.safe_load(block.text), schema)


def test_every_alert_has_its_page_of_the_runbook() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/helm/kworker/files/alerts.yaml").read_text("utf-8"))
    assert alerts
    assert [name for name in alerts if f"\n## {name}\n" not in PAGES["runbook.md"].text] == []


def test_configuration_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    found = [(place, block) for place, block in blocks("toml") if "project" not in tomllib.loads(block.text)]
    assert found
    for place, block in found:
        path = tmp_path / f"{place.replace('/', '-')}.toml"
        path.write_text(block.text.replace("/run/secrets/kafka", str(tmp_path / "secret")))
        try:
            Config.load({}, {}, path, vet=faults, group_needed=False)
        except ConfigError as error:
            pytest.fail(f"{place}: {error}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link that leads nowhere, or a page that is in no list, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_reference_is_that_of_the_code(site: Path) -> None:
    settings = (site / "reference" / "settings" / "index.html").read_text()
    assert [option.flag for option in OPTIONS if f"<code>{option.flag}</code>" not in settings] == []
    metrics = (site / "reference" / "metrics" / "index.html").read_text()
    assert [name for name in METRICS if f"<code>{name}</code>" not in metrics] == []


def test_every_page_has_its_place(site: Path) -> None:
    start = (site / "index.html").read_text()
    missing = [name for name in PAGES if name != "index.md" and f'href="{name.removesuffix(".md")}/"' not in start]
    assert missing == []


def test_tuning_tells_of_every_setting() -> None:
    told = PAGES["how-to/tuning.md"].text
    assert [option.flag for option in OPTIONS if f"`{option.flag}`" not in told] == []
