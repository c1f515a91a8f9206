"""The README is true: its example is installed and run on a real Kafka as it stands, and its tables are the code's."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kit import Broker, committed, create_topic, end_offsets, read_all, wait_for
from kit.distribution import jars, java
from kit.document import Document
from kit.leash import leashed
from kit.reader import ADDRESS, Reader
from kworker import worker
from kworker.cli import COMMANDS
from kworker.cli.options import _default
from kworker.cli.schedule import add
from kworker.config import Config
from kworker.config.options import OPTIONS
from kworker.errors import ConfigError, FatalKafkaError, KworkerError, PluginError
from kworker.kafka.settings import faults
from kworker.metric_table import METRICS
from kworker.plugin import MARK
from kworker.schedules.given import KEYS
from kworker.task import Reason

PAGE = Document(Path(__file__).parents[2] / "README.md")
README, commands = PAGE.text, PAGE.commands
BLOCKS = [(block.kind, block.text) for block in PAGE.blocks]
DEADLINE = 60.0


def rows(header: str) -> dict[str, list[str]]:
    """The table that starts with this row: first cell -> the others; code marks are left out."""
    table = README[README.index(header) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip().replace("`", "") for cell in row.strip("|").split(" | ")] for row in table]
    return {first: others for first, *others in cells}


class Bookkeeper(Reader):
    """Somebody who follows the README, and looks into the ledger of its example."""

    def booked(self) -> dict[str, int]:
        """The ledger: id -> cents."""
        with closing(sqlite3.connect(f"file:{self.folder / 'ledger.db'}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT id, cents FROM bookings"))

    def wait_for_booking(self, name: str, cents: int) -> None:
        """Until the ledger has this booking."""
        exists = (self.folder / "ledger.db").exists
        wait_for(lambda: exists() and self.booked().get(name) == cents, DEADLINE, f"the booking of {name}")


@pytest.fixture(scope="module")
def own_broker() -> Iterator[Broker]:
    """A broker for this module: the README's topic and group have fixed names."""
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, own_broker: Broker) -> Bookkeeper:
    """The plugin of the README, installed, and the topic."""
    reader = Bookkeeper(PAGE, tmp_path_factory.mktemp("reader"), own_broker.bootstrap)
    reader.write("ledger/pyproject.toml")
    reader.write("ledger/ledger.py")
    reader.do("pip install ./ledger")
    create_topic(own_broker.bootstrap, "tasks", 3)
    create_topic(own_broker.bootstrap, "replies")
    return reader


@pytest.fixture(scope="module")
def running(reader: Bookkeeper) -> Iterator[Bookkeeper]:
    """The worker of the README; it drains and ends with 0, and everything is committed."""
    (command,) = [command for command in commands() if command.startswith("kworker --group")]
    with (
        (reader.folder / "log").open("wb") as log,
        subprocess.Popen(
            leashed(*reader.words(command), "--admin-port", "0"), cwd=reader.folder, env=reader.environment, stderr=log
        ) as process,
    ):
        try:
            yield reader
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0, (reader.folder / "log").read_text()
        finally:
            process.kill()
    done = committed(reader.bootstrap, "accounting", "tasks")
    assert {partition: offset for partition, (offset, _) in done.items()} == end_offsets(reader.bootstrap, "tasks")


def test_the_example_plugin_is_found_and_checked(reader: Bookkeeper) -> None:
    (listed,) = reader.do("kworker plugins")[:1]
    assert re.search(r"^ledger +ledger\.book +thread +10s +5 ", listed, re.M)
    assert "ok    plugin ledger (ledger 1.0): ledger.book" in reader.do("kworker check")[0]


def test_the_test_of_the_example_plugin_passes(reader: Bookkeeper) -> None:
    tests = reader.write("ledger/test_ledger.py").parent  # where its ledger.db is not the worker's
    command = shlex.join([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "test_ledger.py"])
    assert "1 passed" in reader.run("sh", "-c", f"cd {shlex.quote(str(tests))} && {command}")


def test_the_example_plugin_books_once_and_sets_aside_what_it_says(running: Bookkeeper) -> None:
    for said in running.do("kworker publish"):
        assert re.fullmatch(r"tasks/[0-2]/[0-9]+\n", said)
    running.wait_for_booking("invoice-1", 100)

    def reasons() -> set[object]:
        return {dict(m.headers() or [])["kworker-reason"] for m in read_all(running.bootstrap, "tasks.dlq")}

    wait_for(lambda: reasons() >= {b"invalid", b"rejected"}, DEADLINE, "both dead letters")
    assert list(running.booked().values()).count(100) == 1


def test_python_publishes(running: Bookkeeper) -> None:
    (snippet,) = [text for kind, text in BLOCKS if kind == "python" and text.startswith("from kworker import Client\n")]
    running.run(sys.executable, "-c", snippet.replace(ADDRESS, running.bootstrap))
    running.wait_for_booking("invoice-2", 200)


def test_python_calls_and_is_told_what_failed(running: Bookkeeper) -> None:
    (snippet,) = [text for kind, text in BLOCKS if kind == "python" and "client.call(" in text]
    said = running.run(sys.executable, "-c", snippet.replace(ADDRESS, running.bootstrap))
    assert said == "rejected nothing to book\n"
    assert running.booked()["invoice-5"] == 500


@pytest.mark.skipif(shutil.which("kcat") is None, reason="there is no kcat")
def test_kcat_publishes_and_reads_dead_letters(running: Bookkeeper) -> None:
    publish, read = (c.replace(ADDRESS, running.bootstrap) for c in commands() if "kcat" in c)
    running.run("sh", "-c", publish)
    running.wait_for_booking("invoice-3", 300)
    running.run("sh", "-c", publish.replace('"alice"', "null"))
    wait_for(lambda: "kworker-reason=invalid" in running.run("sh", "-c", read), DEADLINE, "the dead letter")


def test_java_publishes(running: Bookkeeper) -> None:
    modules = subprocess.run([java(), "--list-modules"], capture_output=True, text=True, check=True).stdout
    if "jdk.compiler" not in modules:
        pytest.skip("this Java has no compiler")
    running.run(java(), "-cp", f"{jars()}/*", str(running.write("Publish.java")))
    running.wait_for_booking("invoice-4", 400)


def test_the_configuration_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    path = tmp_path / "kworker.toml"
    path.write_text(PAGE.file("kworker.toml").replace("/run/secrets/kafka", str(tmp_path / "secret")))
    config = Config.load({}, {}, path, vet=faults)
    assert (config.group, config.order, config.topics) == ("accounting", "key", ("tasks", "orders"))
    assert config.dead_letter("orders") == "orders.failed"
    assert config.kafka["sasl.password"] == "secret"
    assert config.tasks["ledger.book"] == {"timeout": 30.0, "max_attempts": 20, "concurrency": 4}


def test_the_schedules_are_accepted_and_their_keys_are_those_of_the_code(tmp_path: Path) -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "toml" and text.startswith("[schedules.")]
    path = tmp_path / "kworker.toml"
    path.write_text(f'group = "accounting"\n{text}')
    schedules = Config.load({}, {}, path).schedules
    assert schedules is not None
    assert [(one.name, one.task, one.topic) for one in schedules] == [
        ("nightly", "report.build", "tasks"),
        ("poll", "feed.poll", "feeds"),
    ]
    (snippet,) = [text for kind, text in BLOCKS if kind == "python" and text.startswith("@schedule(")]
    names: dict[str, Any] = {}
    exec(f"from kworker import schedule, task\n{snippet}", names)
    assert [one.plan.trigger for one in getattr(names["build"], MARK).schedules] == [schedules[0].trigger]
    assert tuple(rows("| key, and option of `add` |")) == KEYS
    options = {option for param in add.params for option in param.opts}
    assert {f"--{key}" for key in KEYS} <= options


def test_the_options_are_those_of_the_code() -> None:
    told = {flag: default for flag, (default, _) in rows("| option |").items()}
    expected = {"--config": "kworker.toml", "-X key=value": "none"}
    for option in OPTIONS:
        default = re.search(r"\[default: (.*)\]", _default(option, Config()))
        expected[option.flag] = (
            default[1] if default else {"group": "must be given", "plugin": "all"}.get(option.name, "none")
        )
    assert told == expected


def test_the_metrics_are_those_of_the_code() -> None:
    told = {
        name: tuple(filter(None, labels.split(", ")))
        for names, (labels,) in rows("| metric |").items()
        for name in names.split(", ")
    }
    assert told == {name: spec.labels for name, spec in METRICS.items()}


def test_the_exit_codes_and_reasons_are_those_of_the_code() -> None:
    errors = {error.exit_code for error in (KworkerError, ConfigError, FatalKafkaError, PluginError)}
    codes = {worker.EXIT_OK, worker.EXIT_FATAL, worker.EXIT_UNFINISHED, worker.EXIT_WATCHDOG} | errors
    assert [int(code) for code in rows("| exit code |")] == sorted(codes)
    assert set(rows("| header | |")["kworker-reason"][0].split(", ")) == set(Reason)


def test_every_kworker_command_it_names_exists() -> None:
    named = {shlex.split(command)[1] for command in commands() if command.startswith("kworker ")}
    assert {name for name in named if not name.startswith("-")} <= set(COMMANDS)


@pytest.mark.parametrize("document", ["README.md", "docs/design.md", "docs/faults.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = Path(__file__).parents[2] / document
    text = path.read_text("utf-8")
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_every_test_that_the_list_of_faults_names_exists() -> None:
    root = Path(__file__).parents[2]
    tests = {
        name
        for path in (*root.glob("tests/**/test_*.py"), *root.glob("plugins/*/tests/test_*.py"))
        for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.M)
    }
    named = re.findall(r"`(test_\w+\*?)`", (root / "docs" / "faults.md").read_text("utf-8"))
    missing = [name for name in named if not any(fnmatch.fnmatchcase(test, name) for test in tests)]
    assert len(named) > 50
    assert missing == []
