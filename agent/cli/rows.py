"""Rows of the queue for people and for programs: a table, JSON, an export."""

import base64
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from agent.event import Event, Stamp
    from agent.queue.pages import Row, Selection
    from agent.queue.reader import Reader

SHOWN = 20  # rows of a table, unless more are asked for
PARAMS = 60  # characters of params, and bytes of a raw message, in a table
PLAIN_WIDTH = 160  # columns where there is no terminal to measure
FILE_MODE = 0o640  # it holds ids: the group may read them, others may not


def show(reader: "Reader", selection: "Selection", limit: int) -> None:
    """The first rows as a table, and how many more there are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("time", "reason" if selection.dead else "priority", "stream", "event"):
        table.add_column(heading, no_wrap=True)
    table.add_column("params", no_wrap=True, overflow="ellipsis")
    table.add_column("sender", no_wrap=True)
    rows = list(islice(reader.rows(selection), limit))
    cells = [_cells(row) for row in rows]
    for line in cells:
        table.add_row(*(Text(_printable(text)) for text in line))
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    console.print(table)
    if more := max(0, reader.count(selection) - len(rows)):
        click.echo(f"and {more:,} more")
    if any(line[0].endswith("?") for line in cells):
        click.echo("? the clock was not known to be right then")


def print_json(rows: Iterable["Row"]) -> None:
    """One JSON array, written as it is read."""
    from agent import jsontext

    separator = "[\n"
    for row in rows:
        click.echo(separator + jsontext.dumps(_document(row)).decode(), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def export(rows: Iterable["Row"], output: Path | None) -> int:
    """Write rows as spool input, one a line. Returns how many were damaged, and left out.

    Raises OSError.
    """
    damaged = 0
    with _opened(output) as file:
        for row in rows:
            line = exported(row)
            damaged += line is None
            if line is not None:
                file.write(line + b"\n")
    return damaged


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
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    if output.exists():
        raise FileExistsError(0, f"found {output} already there, expected a new name")
    temporary = output.with_name(f".{output.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.rename(output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(output.absolute().parent)


def _sync(directory: Path) -> None:
    from agent.atomic_file import sync_directory

    sync_directory(directory)


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
        return known | {"source": item.source, "reason": item.reason, "raw": raw}
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


def _cells(row: "Row") -> tuple[str, ...]:
    """Time, reason or priority, stream or source, name, params or first bytes, sender."""
    from agent.event import RawMessage

    item = row.item
    if item is None:
        return "", row.reason or "", str(row.stream), "(damaged)", "", ""
    if isinstance(item, RawMessage):
        first = ascii(item.payload[:PARAMS])[2:-1]
        return _local(item.stamp), item.reason, item.source, "(raw message)", first, ""
    second = row.reason or item.priority.name.lower()
    return _local(item.stamp), second, item.stream, item.name, _params(item), _who(item)


def _local(stamp: "Stamp") -> str:
    time = datetime.fromtimestamp(stamp.wall_us / 1e6, UTC).astimezone()
    return f"{time:%Y-%m-%d %H:%M:%S}{'' if stamp.trusted else '?'}"


def _params(event: "Event") -> str:
    from agent import jsontext

    text = jsontext.dumps(event.params).decode()[1:-1]
    return text if len(text) <= PARAMS else text[: PARAMS - 1] + "…"


def _who(event: "Event") -> str:
    return event.sender.client_id or event.sender.app_instance_id or ""


def _printable(text: str) -> str:
    """An event's name can be anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
