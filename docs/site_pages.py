"""What the site shows that is not written in docs/: tables made from the code, and the READMEs of other folders.

mkdocs calls it as a hook (mkdocs.yml). A line `<!-- from the code: NAME -->` of a page becomes what TABLES has by that
name; an unknown NAME fails the build. Links that leave the site become plain text, since only a clone has their target.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import click
from click.testing import CliRunner
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from kworker import errors, worker
from kworker.cli import COMMANDS, kworker
from kworker.cli.options import _default
from kworker.config import Config
from kworker.config.options import OPTIONS, TASK_OPTIONS, TOPIC_OPTIONS
from kworker.metric_table import METRICS, PROCESS_METRICS
from kworker.task import Reason

ROOT = Path(__file__).parents[1]

BORROWED = {
    **{f"reference/{path.parent.name}.md": path for path in sorted(ROOT.glob("plugins/*/README.md"))},
    "reference/chart.md": ROOT / "deploy/helm/kworker/README.md",
    "reference/changes.md": ROOT / "CHANGELOG.md",
}
"""Pages of the site that live elsewhere in the repository."""

_FROM_CODE = re.compile(r"^<!-- from the code: (\w+) -->$", re.M)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!\]))", re.M | re.S)
_CODES = {
    worker.EXIT_OK: "stopped; everything that ran is done and committed",
    errors.KworkerError.exit_code: "unexpected error; a command that did not do all that it was asked to",
    errors.ConfigError.exit_code: "usage or configuration",
    worker.EXIT_FATAL: "fatal Kafka error",
    worker.EXIT_UNFINISHED: "stopped with tasks unfinished or not committed: they run again elsewhere",
    errors.PluginError.exit_code: "a plugin could not be loaded",
    worker.EXIT_WATCHDOG: "too many hung threads, or the worker itself stopped moving: restart it",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the borrowed pages."""
    for uri, path in BORROWED.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what comes from the code, and mend the links."""
    uri = page.file.src_uri
    markdown = _FROM_CODE.sub(lambda found: _table(found[1], uri), markdown)
    origin = BORROWED.get(uri, ROOT / "docs" / uri)
    parts = _CODE.split(markdown)  # every second one is code
    parts[::2] = [_LINK.sub(lambda found: _link(found, origin, uri), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], origin: Path, uri: str) -> str:
    """The same link, as it is from the page `uri`; only its text when nothing of the site is there."""
    text, target, anchor = found[1], found[2], found[3] or ""
    if not target or "://" in target or target.startswith("mailto:"):
        return found[0]
    path = Path(os.path.normpath(origin.parent / target))
    pages = {borrowed: page for page, borrowed in BORROWED.items()} | {ROOT / "README.md": "index.md"}
    if path in pages:
        goal, anchor = pages[path], anchor if path != ROOT / "README.md" else ""
    elif path.is_relative_to(ROOT / "docs") and path.suffix == ".md":
        goal = path.relative_to(ROOT / "docs").as_posix()  # one that is not there fails the build
    elif path.exists():
        return text
    else:
        raise PluginError(f"{origin}: the link to {target} leads nowhere")
    return f"[{text}]({os.path.relpath(goal, PurePosixPath(uri).parent)}{anchor})"


def _table(name: str, uri: str) -> str:
    if name not in TABLES:
        raise PluginError(f"{uri}: nothing of the code is called {name}; there are: {', '.join(TABLES)}")
    return "\n".join(TABLES[name]())


def _rows(*heads: str) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _settings() -> Iterator[str]:
    yield from _rows("setting", "default", "meaning")
    defaults = Config()
    for option in OPTIONS:
        default = re.search(r"\[default: (.*)\]", _default(option, defaults))
        yield _row(
            f"`{option.flag}`",
            f"`{default[1]}`" if default else "",
            option.help.replace("*", "\\*"),
        )


def _tables_of_toml() -> Iterator[str]:
    yield from _rows("table", "keys")
    yield _row('`[tasks."NAME"]`', ", ".join(f"`{key}`" for key in TASK_OPTIONS))
    yield _row('`[topics."NAME"]`', ", ".join(f"`{key}`" for key in TOPIC_OPTIONS))


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        command = kworker.get_command(click.Context(kworker), name)
        assert command is not None
        yield from _command(name.split(), command)


def _command(words: list[str], command: click.Command) -> Iterator[str]:
    yield f"{'#' * (len(words) + 1)} kworker {' '.join(words)}\n"
    yield "```text"
    said = CliRunner().invoke(kworker, [*words, "--help"], prog_name="kworker", terminal_width=80)
    yield said.output.rstrip().replace(" ", " ")
    yield "```\n"
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _command([*words, name], sub)


def _metrics() -> Iterator[str]:
    yield from _rows("metric", "kind", "labels", "meaning")
    for spec in (*METRICS.values(), *PROCESS_METRICS):
        yield _row(f"`{spec.name}`", spec.kind, ", ".join(f"`{label}`" for label in spec.labels), spec.help)


def _exit_codes() -> Iterator[str]:
    yield from _rows("code", "meaning")
    for code, meaning in sorted(_CODES.items()):
        yield _row(str(code), meaning)


def _reasons() -> Iterator[str]:
    yield ", ".join(f"`{reason}`" for reason in Reason)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": _settings,
    "tables": _tables_of_toml,
    "commands": _commands,
    "metrics": _metrics,
    "exit_codes": _exit_codes,
    "reasons": _reasons,
}
