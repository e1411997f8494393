"""Rows of the queue for people and for programs: a table, JSON, an export."""

import base64
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from rich.table import Table

    from agent.anchor import Moment
    from agent.event import Event, RawMessage, Stamp
    from agent.queue.pages import Row, Selection
    from agent.queue.reader import Reader
    from agent.upkeep import Tally

    Happened = Callable[[Event], Moment]

SHOWN = 20  # rows of a table, unless more are asked for
PARAMS = 60  # characters of params, and bytes of a raw message, in a table
PLAIN_WIDTH = 160  # columns where there is no terminal to measure
WIDE = 120  # columns of a terminal that has room for senders
CELL = 60  # columns of a cell at most: an event can have a name of any length
GAP = 2  # columns between two cells
NO_STREAM = "?"  # of rows that are no events
HEADINGS = ("time", "priority", "reason", "stream", "event", "why", "params", "sender")
# Where there is no room for all: who gives way down to how many columns, one after the other.
GIVE_WAY = (
    ("params", 24), ("why", 24), ("sender", 0), ("params", 0),
    ("why", 12), ("stream", 0), ("why", 0), ("priority", 0),
)  # fmt: skip
WHYS = {
    "time_unknown": "nobody can tell when it was: the clock was not known to be right in that boot",
    "crashed": "the agent died again and again, the last time while it touched this",
    "damaged": "the disk has lost what was in it",
    "too_large": "more than the queue could ever hold",
    "refused_400": "the endpoint refused just this event (400), and took others",
    "refused_413": "too large for the endpoint (413), even alone",
}
"""Of what has no sentence of its own in the file. What is expired says when it was."""
FILE_MODE = 0o640  # it holds ids: the group may read them, others may not


def show(reader: "Reader", selection: "Selection", limit: int) -> bool:
    """The first rows as a table, and how many more there are; whether there were any."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    today = datetime.now(UTC).astimezone().date()
    rows = list(islice(reader.rows(selection), limit))
    when = happenings(reader)
    lines = [_cells(row, today, when) for row in rows]
    if not lines:
        return False
    console.print(_table(lines, width=console.width))
    if more := max(0, reader.count(selection) - len(rows)):
        click.echo(f"and {more:,} more")
    if any(line["time"].endswith("?") for line in lines):
        click.echo("? the clock was not known to be right then")
    return True


def nothing(reader: "Reader", selection: "Selection", streams: Iterable[str]) -> str:
    """What is said where no row is selected; ``streams``: those that are configured.

    A name that stands for nothing is most likely misspelt, so that those that there are help.
    """
    if selection.everything:
        return "no dead letters" if selection.dead else "nothing waits"
    if selection.stream and (misspelt := no_such_stream(reader, selection.stream, streams)):
        return misspelt
    wanted = {
        "of the stream": selection.stream,
        "named": selection.name,
        "that died of": selection.reason,
    }
    said = " ".join(f"{how} {_printable(what)}" for how, what in wanted.items() if what is not None)
    noun = "dead letter" if selection.dead else "waiting event"
    died = _reasons(reader) if selection.reason is not None else []
    return f"found no {noun} {said}" + (f"; {_there_are(died)}" if died else "")


def no_such_stream(reader: "Reader", name: str, configured: Iterable[str]) -> str:
    """What is said of a stream that nobody knows; empty if it is configured, or was once."""
    known = _streams(reader, configured)
    if name in known:
        return ""
    return f"found no stream {_printable(name)}; {_there_are(known)}"


def _streams(reader: "Reader", configured: Iterable[str]) -> list[str]:
    """The configured streams, then those that only rows or counts are of."""
    from agent.queue.pages import Selection

    found = dict.fromkeys(configured)
    for dead in (False, True):
        found |= dict.fromkeys(row.stream for row in reader.rows(Selection(dead=dead)))
    found |= dict.fromkeys(row.stream for row in reader.days())
    return [name for name in found if name not in ("", NO_STREAM)]


def _reasons(reader: "Reader") -> list[str]:
    from agent.queue.pages import Selection

    return sorted({row.reason for row in reader.rows(Selection(dead=True)) if row.reason})


def _there_are(names: Sequence[str]) -> str:
    shown = ", ".join(map(_printable, names[:SHOWN])) or "none"
    return f"there are: {shown}{', …' if len(names) > SHOWN else ''}"


def print_json(rows: Iterable["Row"], when: "Happened") -> bool:
    """One JSON array in UTF-8, whatever the terminal's letters are, written as it is read.

    Says whether there were any.
    """
    from agent import jsontext

    separator = b"[\n"
    for row in rows:
        click.echo(separator + jsontext.dumps(_document(row, when)), nl=False)
        separator = b",\n"
    empty = separator == b"[\n"
    click.echo(b"[]" if empty else b"\n]")
    return not empty


def happenings(reader: "Reader") -> "Happened":
    """What tells when an event happened, as far as the file knows now."""
    from agent.boots import Boots
    from agent.clock import Clock
    from agent.ga4.departure import happened

    return partial(happened, when=partial(Boots.of(reader.boots).when, now=Clock().moment()))


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


def _document(row: "Row", when: "Happened") -> dict[str, Any]:
    """``time``: the event's own, if it has one (``timestamp_micros``); ``taken``: on arrival."""
    from agent.event import RawMessage

    item = row.item
    known: dict[str, Any] = {"id": row.id}
    known |= {"reason": row.reason, "why": _why(row, item, when)} if row.reason else {}
    if item is None:
        return known | {"damaged": True}
    taken = _utc(item.stamp.wall_us)
    if isinstance(item, RawMessage):
        raw = base64.b64encode(item.payload).decode()
        whence = {"source": item.source, "reason": item.reason, "why": _why(row, item, when)}
        return known | {"time": taken, "clock_trusted": item.stamp.trusted, **whence, "raw": raw}
    own = {} if item.time_us is None else {"timestamp_micros": item.time_us}
    return known | {
        "time": _utc(item.stamp.wall_us if item.time_us is None else item.time_us),
        **own,
        "taken": taken,
        "clock_trusted": item.stamp.trusted,
        "stream": item.stream,
        "priority": item.priority.name.lower(),
        "name": item.name,
        "params": item.params,
        "event_id": item.event_id,
        "sender": item.sender.body,
    }


def _utc(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")


# -- why it is dead -------------------------------------------------------------------------


def _why(row: "Row", item: "Event | RawMessage | None", when: "Happened") -> str:
    """In a sentence; a raw message has its own. Empty for what is not dead."""
    from agent.event import Event, RawMessage

    if isinstance(item, RawMessage):
        return item.why or WHYS.get(item.reason, "")
    if row.reason == "expired" and isinstance(item, Event):
        return f"happened {_roughly(when(item).us)}, too late for GA4 (72 h)"
    return WHYS.get(row.reason or "", "")


def _roughly(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC).astimezone():%Y-%m-%d %H:%M}"


# -- for people -----------------------------------------------------------------------------


def _cells(row: "Row", today: date, when: "Happened") -> dict[str, str]:
    """The line of a row by its headings; a raw message shows its source and its first bytes."""
    from agent.event import Priority, RawMessage

    item, reason = row.item, row.reason or ""
    why = _why(row, item, when)
    if item is None:
        cells = ("", "", reason, str(row.stream), "(damaged)", why, "", "")
    elif isinstance(item, RawMessage):
        first = ascii(item.payload[:PARAMS])[2:-1]
        time = _taken(item.stamp, today)
        cells = (time, "", item.reason, item.source, "(raw message)", why, first, "")
    else:
        time = _taken(item.stamp, today) if item.time_us is None else _local(item.time_us, today)
        usual = item.priority == Priority.NORMAL or reason
        priority = "" if usual else item.priority.name.lower()
        cells = (time, priority, reason, item.stream, item.name, why, _params(item), _who(item))
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


def _taken(stamp: "Stamp", today: date) -> str:
    return _local(stamp.wall_us, today) + ("" if stamp.trusted else "?")


def _local(us: int, today: date) -> str:
    time = datetime.fromtimestamp(us / 1e6, UTC).astimezone()
    day = "" if time.date() == today else f"{time:%Y-%m-%d} "
    return f"{day}{time:%H:%M:%S}"


def _params(event: "Event") -> str:
    from agent import jsontext

    text = jsontext.dumps(event.params).decode()[1:-1]
    return text if len(text) <= PARAMS else text[: PARAMS - 1] + "…"


def _who(event: "Event") -> str:
    return event.sender.client_id or event.sender.app_instance_id or ""


def _printable(text: str) -> str:
    """An event's name can be anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
