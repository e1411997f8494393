"""Rows of the queue for people and for programs: a table, JSON, an export."""

import base64
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from rich.table import Table

    from agent.event import Event, Stamp
    from agent.queue.pages import Row, Selection
    from agent.queue.reader import Reader
    from agent.upkeep import Tally

SHOWN = 20  # rows of a table, unless more are asked for
PARAMS = 60  # characters of params, and bytes of a raw message, in a table
PLAIN_WIDTH = 160  # columns where there is no terminal to measure
WIDE = 120  # columns of a terminal that has room for senders
CELL = 60  # columns of a cell at most: an event can have a name of any length
GAP = 2  # columns between two cells
HEADINGS = ("time", "priority", "reason", "stream", "event", "why", "params", "sender")
# Where there is no room for all: who gives way down to how many columns, one after the other.
GIVE_WAY = (
    ("params", 24), ("why", 24), ("sender", 0), ("params", 0),
    ("why", 12), ("stream", 0), ("why", 0), ("priority", 0),
)  # fmt: skip
FILE_MODE = 0o640  # it holds ids: the group may read them, others may not


def show(reader: "Reader", selection: "Selection", limit: int) -> None:
    """The first rows as a table, and how many more there are."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    today = datetime.now(UTC).astimezone().date()
    rows = list(islice(reader.rows(selection), limit))
    lines = [_cells(row, today) for row in rows]
    if not lines:
        click.echo(nothing(selection))
        return
    console.print(_table(lines, width=console.width))
    if more := max(0, reader.count(selection) - len(rows)):
        click.echo(f"and {more:,} more")
    if any(line["time"].endswith("?") for line in lines):
        click.echo("? the clock was not known to be right then")


def nothing(selection: "Selection") -> str:
    """What is said where no row is selected."""
    if selection.everything:
        return "no dead letters" if selection.dead else "nothing waits"
    wanted = {
        "of the stream": selection.stream,
        "named": selection.name,
        "that died of": selection.reason,
    }
    said = " ".join(f"{how} {_printable(what)}" for how, what in wanted.items() if what is not None)
    return f"found no {'dead letter' if selection.dead else 'waiting event'} {said}"


def print_json(rows: Iterable["Row"]) -> None:
    """One JSON array in UTF-8, whatever the terminal's letters are, written as it is read."""
    from agent import jsontext

    separator = b"[\n"
    for row in rows:
        click.echo(separator + jsontext.dumps(_document(row)), nl=False)
        separator = b",\n"
    click.echo(b"[]" if separator == b"[\n" else b"\n]")


def export(rows: Iterable["Row"], output: Path | None) -> "Tally":
    """Write rows as spool input, one a line. What was ``kept`` is damaged, and left out.

    Raises OSError.
    """
    from agent.upkeep import Tally

    done = damaged = 0
    with _opened(output) as file:
        for row in rows:
            line = exported(row)
            damaged += line is None
            if line is not None:
                file.write(line + b"\n")
                done += 1
    return Tally(done, damaged)


def exported(row: "Row") -> bytes | None:
    """The row as a line of spool input, without its end; None if it is damaged."""
    from agent import jsontext
    from agent.event import Event
    from agent.intake.spool_file import line

    item = row.item
    if item is None:
        return None
    if isinstance(item, Event) and row.reason:
        # Why it died is for who reads the file; the spool takes note of it and goes on.
        return line(item)[:-1] + b',"reason":' + jsontext.dumps(row.reason) + b"}"
    return line(item)


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is either whole or not there."""
    from agent import atomic_file

    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    if output.exists():
        raise FileExistsError(0, f"found {output} already there, expected a new name")
    with atomic_file.replacing(output, mode=FILE_MODE) as file:
        yield file


# -- for programs ---------------------------------------------------------------------------


def _document(row: "Row") -> dict[str, Any]:
    from agent.event import RawMessage

    item = row.item
    known = {"id": row.id} | ({"reason": row.reason} if row.reason else {})
    if item is None:
        return known | {"damaged": True}
    known |= {"time": _utc(item.stamp), "clock_trusted": item.stamp.trusted}
    if isinstance(item, RawMessage):
        raw = base64.b64encode(item.payload).decode()
        return known | {"source": item.source, "reason": item.reason, "why": item.why, "raw": raw}
    return known | {
        "stream": item.stream,
        "priority": item.priority.name.lower(),
        "name": item.name,
        "params": item.params,
        "event_id": item.event_id,
        "sender": item.sender.body,
    }


def _utc(stamp: "Stamp") -> str:
    return datetime.fromtimestamp(stamp.wall_us / 1e6, UTC).isoformat(timespec="milliseconds")


# -- for people -----------------------------------------------------------------------------


def _cells(row: "Row", today: date) -> dict[str, str]:
    """The line of a row by its headings; a raw message shows its source and its first bytes."""
    from agent.event import Priority, RawMessage

    item, reason = row.item, row.reason or ""
    if item is None:
        cells = ("", "", reason, str(row.stream), "(damaged)", "", "", "")
    elif isinstance(item, RawMessage):
        first = ascii(item.payload[:PARAMS])[2:-1]
        time = _local(item.stamp, today)
        cells = (time, "", item.reason, item.source, "(raw message)", item.why, first, "")
    else:
        time = _local(item.stamp, today)
        usual = item.priority == Priority.NORMAL or reason
        priority = "" if usual else item.priority.name.lower()
        cells = (time, priority, reason, item.stream, item.name, "", _params(item), _who(item))
    return dict(zip(HEADINGS, map(_printable, cells), strict=True))


def _table(lines: Sequence[Mapping[str, str]], *, width: int) -> "Table":
    """The columns that say anything. Why and params share what the others leave."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    natural = {
        heading: max(len(heading), *(min(cell_len(line[heading]), CELL) for line in lines))
        for heading in HEADINGS
        if any(line[heading] for line in lines) and (heading != "sender" or width >= WIDE)
    }
    widths = _fitted(natural, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for heading, fixed in widths.items():
        table.add_column(
            heading, no_wrap=True, overflow="ellipsis", min_width=fixed, max_width=fixed
        )
    for line in lines:
        table.add_row(*(Text(line[heading]) for heading in widths))
    return table


def _fitted(natural: Mapping[str, int], width: int) -> dict[str, int]:
    """How wide the columns are that have room; those that do not give way never shrink."""
    widths = dict(natural)
    for heading, least in GIVE_WAY:
        excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
        if heading in widths and excess > 0:
            widths[heading] = max(min(least, widths[heading]), widths[heading] - excess)
            if widths[heading] < len(heading):
                del widths[heading]
    return widths


def _local(stamp: "Stamp", today: date) -> str:
    time = datetime.fromtimestamp(stamp.wall_us / 1e6, UTC).astimezone()
    day = "" if time.date() == today else f"{time:%Y-%m-%d} "
    return f"{day}{time:%H:%M:%S}{'' if stamp.trusted else '?'}"


def _params(event: "Event") -> str:
    from agent import jsontext

    text = jsontext.dumps(event.params).decode()[1:-1]
    return text if len(text) <= PARAMS else text[: PARAMS - 1] + "…"


def _who(event: "Event") -> str:
    return event.sender.client_id or event.sender.app_instance_id or ""


def _printable(text: str) -> str:
    """An event's name can be anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
