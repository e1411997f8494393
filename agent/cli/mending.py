"""What the groups `queue` and `dead` do, to waiting and to dead rows."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.bar import bar
from agent.cli.options import state_of
from agent.cli.plainly import asking, said_plainly
from agent.units import counted

if TYPE_CHECKING:
    from agent.queue.pages import Row, Selection
    from agent.upkeep import Tally


def list_rows(
    config: Path | None, selection: "Selection", *, limit: int | None, as_json: bool
) -> None:
    """Show rows: all of them as JSON, a few as a table, unless ``limit`` says how many."""
    from itertools import islice

    from agent.cli import rows
    from agent.queue.reader import reading

    directory = state_of(config)
    with said_plainly("list", directory), reading(directory) as reader:
        selection = replace(selection, upto=reader.newest_id)
        if as_json:
            found = islice(reader.rows(selection), limit)
            any_ = rows.print_json(found, rows.happenings(reader))
        else:
            any_ = rows.show(reader, selection, rows.SHOWN if limit is None else limit)
        if not any_ and not (as_json and selection.everything):
            click.echo(rows.nothing(reader, selection, configured(config)), err=as_json)


def configured(config: Path | None) -> tuple[str, ...]:
    """The names of the streams that the daemon runs on; none if nobody can tell."""
    from agent.boot_config import choose, config_path
    from agent.config import ConfigError

    try:
        return tuple(choose(config_path(config), environ=os.environ).config.stream)
    except ConfigError:
        return ()


def export(config: Path | None, selection: "Selection", output: Path | None) -> None:
    """Write rows as spool input, to a file or to standard output."""
    from itertools import chain

    from agent.cli import rows
    from agent.queue.reader import reading

    directory = state_of(config)
    with said_plainly("export", directory), reading(directory) as reader:
        total = reader.books.dead if selection.dead else reader.books.queued
        chosen = reader.rows(replace(selection, upto=reader.newest_id))
        first = next(chosen, None)
        if first is None:
            click.echo(rows.nothing(reader, selection, configured(config)), err=True)
            return
        done = rows.export(_counted(chain([first], chosen), "exporting", total), output)
    if output is not None:
        noun = "dead letter" if selection.dead else "event"
        click.echo(f"{counted(done.done, noun)} {'is' if done.done == 1 else 'are'} in {output}")
    if done.kept:
        sys.exit(f"left out {counted(done.kept, 'damaged row')}: nobody can read what is in there")


def purge(config: Path | None, selection: "Selection", *, yes: bool) -> None:
    """Drop rows for good, after asking."""
    noun = "dead letter" if selection.dead else "waiting event"
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("cannot ask: found no terminal; say --yes if you are sure")
    directory = state_of(config)
    selection, number = _counting(config, directory, "purge", selection)
    if not number:
        return
    if not yes and not _confirmed(f"Purge {counted(number, noun)}? They are lost for good."):
        sys.exit("purged nothing")
    done = _work(directory, "purge", selection, number)
    click.echo(f"purged {counted(done.done, noun)}")
    if done.kept:
        click.echo(f"left {counted(done.kept, 'event')} that just then were being delivered")


def requeue(config: Path | None, selection: "Selection") -> None:
    """Let dead events wait again."""
    directory = state_of(config)
    selection, number = _counting(config, directory, "requeue", selection)
    if not number:
        return
    done = _work(directory, "requeue", selection, number)
    click.echo(f"requeued {counted(done.done, 'event')}")
    if done.kept:
        click.echo(f"left {counted(done.kept, 'raw or damaged message')}: no events to deliver")
        sys.exit(0 if done.done else 1)


def _confirmed(question: str) -> bool:
    with asking("purged nothing"):
        return click.confirm(question)


def _counting(
    config: Path | None, directory: Path, verb: str, selection: "Selection"
) -> tuple["Selection", int]:
    """How many rows there are now; the selection is bound to them. If there are none, it is said."""
    from agent.cli.rows import nothing
    from agent.queue.reader import reading

    with said_plainly(verb, directory), reading(directory) as reader:
        number = reader.count(selection)
        if not number:
            click.echo(nothing(reader, selection, configured(config)))
        return replace(selection, upto=reader.newest_id), number


def _work(directory: Path, verb: str, selection: "Selection", number: int) -> "Tally":
    from agent.upkeep import Tally, at_work, step_by_step

    tally = Tally()
    try:
        with said_plainly(verb, directory), at_work(directory) as do, bar(verb, number) as show:
            for tally in step_by_step(do, verb, selection):
                show(tally.done + tally.kept, number)
    except (SystemExit, KeyboardInterrupt):
        if tally.done:
            click.echo(f"{verb}d {counted(tally.done, 'row')} before this:", err=True)
        raise
    return tally


def _counted(rows: Iterator["Row"], what: str, total: int) -> Iterator["Row"]:
    with bar(what, total) as show:
        for number, row in enumerate(rows, 1):
            yield row
            show(number, total)
