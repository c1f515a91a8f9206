"""`python -m benchmarks.document FILE...`: the results of one or more runs as one text, side by side, and as plots.

Each FILE is a run (store.py): its goals stand beside those of the others; a verdict counts when every run has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import plots, table
from benchmarks.goals import GOALS
from benchmarks.store import Results, read

BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--write", type=click.Path(path_type=Path), help="Put it into this document, between its marks.")
def main(files: tuple[Path, ...], write: Path | None) -> None:
    """Show results; exit code 1 when one was invalid."""
    document = write.read_text("utf-8") if write else ""
    if write and not (BEGIN in document and END in document):
        raise click.UsageError(f"{write} has no place for results: a line {BEGIN} and a line {END}")
    runs = {file.stem: read(file) for file in files}
    if len(runs) < len(files):
        raise click.UsageError("each file needs a name of its own: it is what its run is called")
    pictures: Sequence[str] = []
    if write:
        pictures = plots.written(runs, write.parent / "benchmarks")
    text = rendered(runs, pictures)
    if write:
        before, after = document[: document.index(BEGIN) + len(BEGIN)], document[document.index(END) :]
        write.write_text(f"{before}\n\n{text}\n{after}", "utf-8")
    else:
        click.echo(text)
    sys.exit(any(row.faults for results in runs.values() for row in results.rows))


def rendered(runs: dict[str, Results], pictures: Sequence[str] = ()) -> str:
    """The whole of it, as Markdown. pictures: names of files in the folder benchmarks beside the document."""
    parts = [_made(runs), "### Goals\n\n" + table.goals(GOALS, runs)]
    parts += [f"![{Path(name).stem.replace('-', ' ')}](benchmarks/{name})" for name in pictures]
    for name, results in runs.items():
        if len(runs) > 1:
            parts.append(f"## Run: {name}")
        parts += [table.memory(results), table.cost(results), table.tables(results.rows)]
    first = next(iter(runs.values()))
    parts += ["### Peers", table.peers(first.peers, first.away)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _made(runs: dict[str, Results]) -> str:
    """How and where: a smoke run says that it measured nothing."""
    lines = []
    for name, results in runs.items():
        for part in results.parts:
            smoke = " (few tasks: no measurement)" if part.smoke else ""
            lines.append(f"- {name}, {part.at} UTC: `{part.command}`{smoke}; {'; '.join(part.machine)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
