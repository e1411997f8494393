"""``ga4-agent ledger``: what became of the events, day by day, to compare with GA4."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, state_of

if TYPE_CHECKING:
    from rich.table import Table

    from agent.queue.reader import Reader

DAYS = 35  # as many as are kept
SHOWN = 7  # days of a table, unless more are asked for
PLAIN_WIDTH = 160  # columns where there is no terminal to measure
FIGURES = ("received", "sent", "dead", "dropped")


@click.command("ledger")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
@click.option(
    "--days",
    type=click.IntRange(min=1, max=DAYS),
    help=f"Only so many, the newest. Default: {SHOWN}; with --json, all.",
)
@click.option("--stream", metavar="NAME", help="Only events of this stream.")
def command(config: Path | None, stream: str | None, *, as_json: bool, days: int | None) -> None:
    """Show what was received, sent and lost, by day and event.

    Per UTC day, stream and event name, of the last 35 days on which something happened. "sent" is
    counted on the day that GA4 was told, so that it can be compared with GA4's reports and BigQuery
    tables of that day, if it ended before "complete until": the time of the oldest event that is
    not delivered yet, and not after the last write of an agent that does not run. The other figures are counted on the day on which the device took the event,
    by its clock then; "dead" is what lies among the dead letters now. Of a day and stream, names
    beyond 500 are "(other)".

    The JSON is one object. "complete_until": a time. "total": the ledger since its beginning, of all
    streams, with received, sent, queued and dead as numbers, dropped and refused by reason, repaired
    and noted by kind, and balanced. "days": an array of objects with day, stream, event, received,
    sent, dead, and dropped by reason, the oldest day first. "limits": an array of objects with
    stream, what, found and limit; what is events_of_a_client (the most that one client had on one of
    the last two days) or event_names (how many there were in all days; GA4 limits app streams only).

    Exit status: 0 shown, 1 the queue cannot be read, 2 wrong usage or configuration.
    """
    import json

    from agent.cli.mending import configured
    from agent.cli.plainly import said_plainly
    from agent.cli.rows import no_such_stream
    from agent.queue.reader import reading

    directory = state_of(config)
    last = days or (DAYS if as_json else SHOWN)
    with said_plainly("show the ledger", directory), reading(directory) as reader:
        if stream and (said := no_such_stream(reader, stream, configured(config))):
            click.echo(said, err=True)
        until = _complete_until(config, directory)
        document = {"complete_until": until, **_document(reader, last=last, stream=stream)}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)


def _document(reader: "Reader", *, last: int, stream: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    books = reader.books
    traffic = ("requests", "bytes_sent", "bytes_received")
    total = {name: value for name, value in asdict(books).items() if name not in traffic}
    return {
        "total": total | {"balanced": books.balanced},
        "days": [asdict(row) for row in reader.days(last=last, stream=stream)],
        "limits": [asdict(one) for one in reader.limits() if stream in (None, one.stream)],
    }


def _complete_until(config: Path | None, directory: Path) -> str:
    """As the daemon says; if it does not run, as its files say. Raises CannotRead."""
    from agent.cli.status import of_file
    from agent.control import ControlError, NotRunning, ask

    try:
        document = ask(directory, "status")
    except (NotRunning, ControlError, OSError):
        document = of_file(config, directory)
    return str(document["queue"]["complete_until"])


def _show(document: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    for name, value in _head(document):
        click.echo(f"{name:<15} {value}")
    if not document["days"]:
        click.echo("no events on any of these days")
        return
    click.echo()
    console.print(_table(document["days"]))


def _head(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    total = document["total"]
    figures = {**total, "dropped": sum(total["dropped"].values())}
    names = ("received", "sent", "queued", "dead", "dropped")
    yield "complete until", document["complete_until"]
    yield "total", ", ".join(f"{figures[name]:,} {name}" for name in names)
    for kind in ("dropped", "refused", "repaired", "noted"):
        if total[kind]:
            yield kind, ", ".join(f"{number:,} {word}" for word, number in total[kind].items())


def _table(days: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("day", "stream", "event"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for heading in FIGURES:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    before = None
    for row in days:
        figures = (row["received"], row["sent"], row["dead"], sum(row["dropped"].values()))
        day = row["day"] if row["day"] != before else ""
        before = row["day"]
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in row["dropped"].items())
        cells = (day, row["stream"], row["event"], *(f"{n:,}" for n in figures), reasons)
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    return table


def _printable(text: str) -> str:
    """An event's name can be anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
