"""`kworker dlq`: dead letters listed, shown, put back on the topic they came from, or marked as dealt with.

`ls`, `show` and `--dry-run` change nothing. `replay` and `purge` write in transactions (kworker.dlq).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kworker.cli.dlq_records import edited, from_file, made, only
from kworker.cli.dlq_telling import Telling, confirm, echo_json
from kworker.cli.options import SOURCES, config_options, sources
from kworker.config import Config
from kworker.dlq.choice import KEYS, Choice, conditions, moment, rate
from kworker.dlq.place import Place
from kworker.errors import ConfigError

if TYPE_CHECKING:
    from kworker.dlq.letter import Letter
    from kworker.dlq.letters import Letters
    from kworker.dlq.resolver import Resolver
    from kworker.dlq.restore import Restored

MOST_REPLAYS = 3
"""How often a record may be replayed before `replay` leaves its letter out."""

_FORGOTTEN = 7 * 86_400  # seconds: the broker's default of offsets.retention.minutes
_Read = TypeVar("_Read")
Command = Callable[..., Any]


@click.group(epilog=SOURCES)
def dlq() -> None:
    """See, replay and purge dead letters.

    What is replayed or purged is resolved: it stays in the topic, and is not listed or replayed again.
    """


def _choosing(command: Command) -> Command:
    """The options that say which letters are meant."""
    where = click.option(
        "--where",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"Only letters with this {', '.join(KEYS)}; of one name any value, of several names each; repeatable.",
    )
    since = click.option("--since", metavar="WHEN", help="Only set aside since then: 2h ago, or an RFC 3339 time.")
    return where(since(command))


def _before(command: Command) -> Command:
    return click.option("--before", metavar="WHEN", help="Only set aside before then.")(command)


_limit = click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
_dry_run = click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
_connection = config_options("bootstrap", "namespace")


@dlq.command(epilog=SOURCES)
@click.argument("topic", metavar="TOPIC.dlq")
@_choosing
@_before
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="With the resolved ones.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_connection
def ls(topic: str, limit: int, everything: bool, as_json: bool, **flags: Any) -> None:
    """List the unresolved letters, grouped by task and error."""
    from kworker.dlq.groups import Groups
    from kworker.dlq.letters import Letters

    choice, config = _choice(topic, flags), _config(flags)
    groups = Groups()
    with Letters(config, topic) as letters:
        letters.open()
        for letter, resolved in letters.from_the_first(resolved=everything):
            if choice.takes(letter):
                groups.add(letter, resolved)
    shown = groups.largest_first()[:limit]
    hidden = groups.count - sum(group.count for group in shown)
    if as_json:
        echo_json({"topic": topic, "letters": groups.count, "not_shown": hidden, "groups": shown})
        return
    from kworker.dlq.shown import table

    if not shown:
        click.echo(
            f"{topic}: no {'' if everything else 'unresolved '}letters{'' if choice.everything else ' like that'}"
        )
        return
    for line in table(shown, resolved=everything):
        click.echo(line)
    if hidden:
        capped = " (too many groups to count each)" if groups.left_out else ""
        click.echo(f"{hidden} more letters in other groups{capped}: see them with --limit or --where")


@dlq.command(epilog=SOURCES)
@click.argument("place", metavar="TOPIC.dlq:PARTITION:OFFSET")
@click.option("--json", "as_json", is_flag=True, help="As JSON; key, headers and value as text, or else base64.")
@click.option("--raw", is_flag=True, help="Write the bytes of the value, nothing else.")
@config_options("bootstrap", "namespace", "plugin", "schema_registry")
def show(place: str, as_json: bool, raw: bool, **flags: Any) -> None:
    """Show one letter: why it was set aside, and what it holds."""
    from kworker.cli.replay import read as read_record
    from kworker.dlq.letter import read
    from kworker.dlq.letters import Letters
    from kworker.dlq.payload import payload
    from kworker.dlq.shown import described, letter_as_json

    where, config = Place.parse(place), _config(flags)
    letter = read(read_record(config, where))
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        return
    with Letters(config, where.topic) as letters:
        letters.open()
        resolved = where.offset in letters.resolved[where.partition]
    content = payload(letter, partial(_avro_source, config), config.schema_registry is not None)
    if as_json:
        echo_json(letter_as_json(letter, content, resolved))
    else:
        for line in described(letter, content, resolved):
            click.echo(line)


@dlq.command(epilog=SOURCES)
@click.argument("topic", metavar="TOPIC.dlq[:PARTITION:OFFSET]")
@_choosing
@_before
@_limit
@_dry_run
@click.option("--rate", metavar="N/s", help="At most so many a second; or N/m, N/h.")
@click.option("--to", metavar="TOPIC", help="Put them on this topic instead of the original one.")
@click.option("--edit", is_flag=True, help="Open the payload of the one letter that is meant in $EDITOR first.")
@click.option("--payload", metavar="@FILE", help="Put the one letter that is meant back with these bytes as its value.")
@click.option(
    "--max-replays",
    type=click.IntRange(1, 1_000_000),
    default=MOST_REPLAYS,
    show_default=True,
    metavar="N",
    help="Leave out what was replayed so often: it fails again and again.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_connection
def replay(topic: str, limit: int | None, dry_run: bool, **flags: Any) -> None:
    """Put unresolved letters back on the topic they came from, once each, and mark them resolved.

    Key, value and headers are the original ones, byte for byte, and one header, kworker-replay, counts. They get a new
    timestamp, go to the partition they had, and come in the order of the dead-letter topic. Interrupt it, and run it
    again: nothing is put back twice. Exit code 1 when a letter that is meant had to stay.
    """
    to, rate_, most = flags.pop("to"), flags.pop("rate"), flags.pop("max_replays")
    edit, given, yes = flags.pop("edit"), flags.pop("payload"), flags.pop("yes")
    if edit and given is not None:
        raise click.UsageError("--edit and --payload are two ways to change a payload: use one")
    value = None if given is None else from_file(given)
    speed = _read("--rate", rate, rate_)
    choice, config = _choice(topic, flags), _config(flags)
    with _opened(config, topic.partition(":")[0], writing=not dry_run) as (letters, resolver):
        _ask_if_forgotten(letters, yes or dry_run)
        if edit or value is not None:
            letter = only(letters, choice)
            value = edited(letter) if edit else value
            choice = Choice({}, partition=letter.place.partition, offset=letter.place.offset)
        make = partial(made, config, letters, {}, to, most, value)
        _settle(letters, resolver, choice, make, limit, speed, "put back")


@dlq.command(epilog=SOURCES)
@click.argument("topic", metavar="TOPIC.dlq[:PARTITION:OFFSET]")
@_choosing
@_limit
@_dry_run
@click.option("--before", metavar="WHEN", help="Delete for good what is older, as far as it is resolved.")
@click.option("--unresolved", is_flag=True, help="With --before: delete what is not resolved as well.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_connection
def purge(
    topic: str, limit: int | None, dry_run: bool, before: str | None, unresolved: bool, yes: bool, **flags: Any
) -> None:
    """Mark letters resolved without replaying them; with --before, delete the oldest for good."""
    choice, config = _choice(topic, flags), _config(flags)
    if before is None:
        if unresolved:
            raise click.UsageError("--unresolved belongs to --before: without it nothing is deleted")
        with _opened(config, topic.partition(":")[0], writing=not dry_run) as (letters, resolver):
            _settle(letters, resolver, choice, lambda letter: None, limit, None, "marked resolved")
        return
    if not choice.everything or limit is not None:
        raise click.UsageError("--before deletes all that is older, resolved or not by any choice: leave the rest out")
    until = _read("--before", partial(moment, now=time.time()), before)
    assert until is not None
    _delete(config, topic, until, unresolved=unresolved, dry_run=dry_run, yes=yes)


def _delete(config: Config, topic: str, until: int, *, unresolved: bool, dry_run: bool, yes: bool) -> None:
    from kworker.dlq.letters import Letters
    from kworker.dlq.pruning import delete, prefixes

    if not config.is_dead_letter(topic):
        raise ConfigError(
            [f"{topic}: neither its name nor the configuration says that it holds dead letters: nothing is deleted"]
        )
    with Letters(config, topic) as letters:
        letters.open()
        found = prefixes(letters, until, unresolved=unresolved)
    if not found:
        rest = "" if unresolved else " and resolved"
        click.echo(f"{topic}: nothing is that old{rest}")
        return
    for partition, prefix in sorted(found.items()):
        click.echo(f"{topic}/{partition}: offsets {prefix.start} to {prefix.end - 1}")
    if dry_run:
        click.echo(f"{topic}: these would be deleted")
        return
    confirm(yes, f"{topic}: delete them for good?")
    delete(config, topic, found)
    click.echo(f"{topic}: deleted")


def _choice(topic: str, flags: dict[str, Any]) -> Choice:
    """What the options mean; takes them out of `flags`."""
    now = time.time()
    where = _read("--where", conditions, flags.pop("where")) or {}
    before = _read("--before", partial(moment, now=now), flags.pop("before", None))
    since = _read("--since", partial(moment, now=now), flags.pop("since"))
    place = Place.parse(topic) if ":" in topic else None
    return Choice(where, before, since, place and place.partition, place and place.offset)


def _read(option: str, reader: Callable[[Any], _Read], value: Any) -> _Read | None:
    try:
        return None if value is None else reader(value)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error


def _config(flags: Mapping[str, Any]) -> Config:
    from kworker.kafka.settings import faults

    return Config.load(*sources(dict(flags)), vet=faults, group_needed=False)


@contextmanager
def _opened(config: Config, topic: str, *, writing: bool) -> Iterator[tuple[Letters, Resolver | None]]:
    """The letters, and what resolves them; without `writing` nothing is changed, and nobody fenced."""
    from kworker.dlq.letters import Letters
    from kworker.dlq.resolver import Resolver

    with Letters(config, topic) as letters:
        if not writing:
            letters.open()
            yield letters, None
            return
        letters.look()  # before anything is written: is there such a topic?
        with Resolver(config, letters) as resolver:
            # Order: an earlier one is fenced and its transaction ended before what it committed is read.
            resolver.start()
            letters.open()
            resolver.probe()
            yield letters, resolver


def _settle(
    letters: Letters,
    resolver: Resolver | None,
    choice: Choice,
    make: Callable[[Letter], Restored | None],
    limit: int | None,
    speed: float | None,
    what: str,
) -> None:
    """Do it, tell what came of it, and exit with 1 when something had to stay."""
    from kworker.dlq.settling import Settling

    telling = Telling(letters.topic, what, dry_run=resolver is None)
    settling = Settling(letters, resolver, choice, make, limit=limit, rate=speed, done=telling.done, left=telling.left)
    try:
        progress = settling.run()
    finally:
        telling.sum_up(settling.progress)
    sys.exit(1 if progress.left or progress.full else 0)


def _ask_if_forgotten(letters: Letters, yes: bool) -> None:
    """Letters that old may have been replayed, and Kafka have forgotten it: it keeps no offsets of an unused group."""
    if yes or not letters.unknown:
        return
    if any(end > start for start, end in letters.ends_at(int((time.time() - _FORGOTTEN) * 1000)).values()):
        confirm(
            False,
            f"{letters.topic}: it has letters older than 7 days, and no replay is known; Kafka forgets one after "
            "offsets.retention.minutes (7 days unless set). Were none of them replayed before?",
        )


def _avro_source(config: Config) -> tuple[dict[str, Any], Any]:
    from kworker.cli.plugins import load_plugins

    schemas = None
    if config.schema_registry is not None:
        from kworker.codecs.schema_registry import SchemaRegistry

        schemas = SchemaRegistry(config.schema_registry)
    loaded, _ = load_plugins(config)
    return {task.spec.name: task.spec for plugin in loaded for task in plugin.tasks}, schemas
