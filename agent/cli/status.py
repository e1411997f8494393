"""``ga4-agent status``: how the agent is, whether the daemon runs or not."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from agent.cli.options import CONFIG

PLAIN_WIDTH = 1000  # columns where there is no terminal to measure


@click.command("status")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def command(config: Path | None, *, as_json: bool) -> None:
    """Show state, queue and ledger.

    Asks the daemon; if it is not running, reads its file. Exit status: 0 shown, 1 could not.
    """
    from agent.boot_config import config_path, state_directory

    document = _status(state_directory(config_path(config), os.environ))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)


def _status(directory: Path) -> Mapping[str, Any]:
    from agent.control import ControlError, NotRunning, ask
    from agent.queue.reader import CannotRead

    try:
        status: Mapping[str, Any] = ask(directory, "status")
    except (NotRunning, PermissionError):
        try:
            return _from_file(directory)
        except CannotRead as error:
            sys.exit(str(error))
    except (ControlError, OSError) as error:
        sys.exit(f"cannot ask the daemon: {error}")
    return status


def _from_file(directory: Path) -> Mapping[str, Any]:
    from agent.clock import Clock
    from agent.queue.reader import read_snapshot
    from agent.status import Observation, status_of

    snapshot = read_snapshot(directory)
    seen = Observation(
        books=snapshot.books,
        used_bytes=snapshot.used_bytes,
        max_bytes=None,
        oldest=snapshot.oldest,
        running=False,
    )
    return status_of(seen, Clock()).document


def _show(document: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in _rows(document):
        table.add_row(name, value)
    console = Console(highlight=False)
    # A program that reads lines must not find them broken.
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    console.print(table)


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from agent.units import counted, format_duration, format_size

    queue, ledger = document["queue"], document["ledger"]
    yield "state", " - ".join(part for part in (document["state"], document["reason"]) if part)
    yield "queue", f"{counted(queue['events'], 'event')}, {format_size(queue['bytes'])}"
    if queue["oldest_age_s"] is not None:
        yield "oldest event", f"{format_duration(queue['oldest_age_s'])} old"
        yield "it expires in", format_duration(max(0.0, queue["oldest_expires_in_s"]))
    yield "complete until", queue["complete_until"]
    yield (
        "ledger",
        ", ".join(f"{ledger[name]} {name}" for name in ("received", "sent", "queued", "dead")),
    )
    for kind in ("dropped", "refused"):
        for reason, number in ledger[kind].items():
            yield kind, f"{number} {reason}"
    yield "books", "balance" if ledger["balanced"] else "DO NOT BALANCE: please report this"
    yield "clock", "trusted" if document["clock"]["trusted"] else "not trusted yet"
    for stream in document["streams"]:
        yield (
            f"stream {stream['stream']}",
            " - ".join(p for p in (stream["state"], stream["reason"]) if p),
        )
    for name, source in document["sources"].items():
        yield f"source {name}", source["problem"] or "ok"
