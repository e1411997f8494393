"""``ga4-agent dead``: the dead letters, which nobody tries to deliver any more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.options import CONFIG, LIMIT, OUTPUT, ROWS_AS_JSON, YES

REASON = click.option("--reason", metavar="REASON", help="Only those that died of just this.")


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    return CONFIG(REASON(function))


@click.group("dead")
def command() -> None:
    """Look into the dead letters, or mend them.

    They are kept, with the reason, and nobody tries to deliver them any more: export them, try
    them again, or drop them.

    Exit status: 0 done, 1 not done, 2 wrong usage or configuration.
    """


@command.command("list")
@_filtered
@LIMIT
@ROWS_AS_JSON
def list_(config: Path | None, reason: str | None, *, limit: int | None, as_json: bool) -> None:
    """Show the dead letters and why they died, the oldest first.

    Exit status: 0 shown, 1 the queue cannot be read, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.list_rows(config, Selection(dead=True, reason=reason), limit=limit, as_json=as_json)


@command.command()
@_filtered
@OUTPUT
def export(config: Path | None, reason: str | None, output: Path | None) -> None:
    """Write the dead letters as NDJSON; they stay where they are.

    The file is input for a spool folder: events in it are tried again, raw messages are dead
    letters again.

    Exit status: 0 exported, 1 not, or not the damaged ones, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.export(config, Selection(dead=True, reason=reason), output)


@command.command()
@_filtered
def requeue(config: Path | None, reason: str | None) -> None:
    """Let dead events wait for delivery again, in their old order.

    Raw messages could not become events, so they stay.

    Exit status: 0 requeued, 1 not, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.requeue(config, Selection(dead=True, reason=reason))


@command.command()
@_filtered
@YES
def purge(config: Path | None, reason: str | None, *, yes: bool) -> None:
    """Drop dead letters for good; they are counted as purged.

    Exit status: 0 purged, 1 not, 2 wrong usage or configuration.
    """
    from agent.cli import mending
    from agent.queue.pages import Selection

    mending.purge(config, Selection(dead=True, reason=reason), yes=yes)
