"""``ga4-agent queue``: the events that wait for delivery."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.options import CONFIG, LIMIT, OUTPUT, ROWS_AS_JSON, YES

STREAM = click.option("--stream", metavar="NAME", help="Only events of this stream.")
NAME = click.option("--name", metavar="NAME", help="Only events with this name.")


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    return CONFIG(STREAM(NAME(function)))


@click.group("queue")
def command() -> None:
    """Look into the queue, export it, or empty it.

    To deliver it instead: ga4-agent drain.

    Exit status: 0 done, 1 not done, 2 wrong usage or configuration.
    """


@command.command("list")
@_filtered
@LIMIT
@ROWS_AS_JSON
def list_(
    config: Path | None, stream: str | None, name: str | None, *, limit: int | None, as_json: bool
) -> None:
    """Show the events that wait, the oldest first.

    Exit status: 0 shown, 1 the queue cannot be read, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.list_rows(config, Selection(stream=stream, name=name), limit=limit, as_json=as_json)


@command.command()
@_filtered
@OUTPUT
def export(config: Path | None, stream: str | None, name: str | None, output: Path | None) -> None:
    """Write the events that wait as NDJSON; they stay in the queue.

    The file is input for a spool folder, of this device or another one: the events keep their
    times, streams and senders.

    Exit status: 0 exported, 1 not, or not the damaged ones, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.export(config, Selection(stream=stream, name=name), output)


@command.command()
@_filtered
@YES
def purge(config: Path | None, stream: str | None, name: str | None, *, yes: bool) -> None:
    """Drop events that wait: they are lost for good, and counted as purged.

    Events that are being delivered at this moment, and those that arrive later, stay.

    Exit status: 0 purged, 1 not, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.purge(config, Selection(stream=stream, name=name), yes=yes)
