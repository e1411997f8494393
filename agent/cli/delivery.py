"""``ga4-agent flush``, ``drain``, ``pause`` and ``resume``: delivery by hand."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.bar import bar
from agent.cli.options import CONFIG, state_of
from agent.cli.plainly import said_plainly
from agent.units import counted

if TYPE_CHECKING:
    from agent.drain import Level


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    from agent.units import UnitError, parse_duration

    try:
        return parse_duration(value)
    except UnitError as error:
        raise click.BadParameter(str(error)) from error


@click.command("flush")
@CONFIG
def flush(config: Path | None) -> None:
    """Try to deliver now.

    The daemon does, whatever it waits for. Only root and the service's own user may.

    Exit status: 0 it tries, 1 it does not, 2 wrong usage or configuration.
    """
    status = _told(config, "flush", otherwise=", or let ga4-agent drain deliver without it")
    if status["paused"]:
        sys.exit("delivery is paused: nothing leaves before ga4-agent resume")
    waiting = status["queue"]["events"]
    click.echo(f"trying now: {counted(waiting, 'event')} waiting" if waiting else "nothing waits")


@click.command("pause")
@CONFIG
def pause(config: Path | None) -> None:
    """Hold everything back.

    The daemon delivers nothing until `resume`, or until it starts again. Events are taken and kept. Only root and the service's own user may.

    Exit status: 0 it is paused, 1 it is not, 2 wrong usage or configuration.
    """
    _told(config, "pause")
    click.echo("paused: events are taken and kept; a restart ends the pause, as does resume")


@click.command("resume")
@CONFIG
def resume(config: Path | None) -> None:
    """Deliver again after `pause`.

    Only root and the service's own user may.

    Exit status: 0 it delivers, 1 it does not, 2 wrong usage or configuration.
    """
    status = _told(config, "resume")
    click.echo(f"delivering again: {counted(status['queue']['events'], 'event')} waiting")


@click.command("drain")
@CONFIG
@click.option(
    "--timeout",
    default="5 min",
    show_default=True,
    metavar="DURATION",
    callback=_seconds,
    help="Give up after this.",
)
def drain(config: Path | None, timeout: float) -> None:
    """Deliver until queue and spool folder are empty.

    Such as before a card is swapped. The daemon does it and goes on taking events meanwhile; to have nothing arrive any more, stop
    it first: then this command delivers by itself. Only root and the service's own user may.

    Exit status: 0 both are empty, 1 they are not, 2 wrong usage or configuration.
    """
    from agent.boot_config import config_path
    from agent.drain import BadConfig, deliverer, until_empty

    path = config_path(config)
    try:
        with (
            said_plainly("drain", state_of(config)),
            deliverer(path, os.environ) as who,
            bar("delivering", 0) as show,
        ):
            start = who.level()
            end = until_empty(
                who,
                timeout=timeout,
                on_level=lambda level: show(level.sent - start.sent, _total(start, level)),
            )
    except BadConfig as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    _report(start, end)


def _total(start: "Level", level: "Level") -> int:
    return level.sent - start.sent + level.left


def _report(start: "Level", end: "Level") -> None:
    sent, dead = end.sent - start.sent, end.dead - start.dead
    buried = f"; {dead:,} were refused and are dead letters" if dead > 0 else ""
    done = f"delivered {counted(sent, 'event')}{buried}"
    if end.empty:
        click.echo(f"the queue is empty: {done}")
        return
    sys.exit(f"cannot empty the queue: {_left(end)}{_why(end)}; {done}")


def _left(level: "Level") -> str:
    events = counted(level.left, "event") if level.left else ""
    files = f"{counted(level.files, 'file')} in the spool folder" if level.files else ""
    left = " and ".join(part for part in (events, files) if part)
    return f"{left} left: " if left else ""


def _why(level: "Level") -> str:
    state = level.state + (f" - {level.reason}" if level.reason else "")
    if level.left and level.in_the_way not in level.reason:
        return f"{state}; {level.in_the_way}"
    if level.left or level.hopeless:
        return state
    return level.in_the_way or "found nothing in the way: give it more time with --timeout"


def _told(config: Path | None, command: str, *, otherwise: str = "") -> Any:
    """Have the daemon do it; its status then. ``otherwise``: what else would do."""
    from agent.control import NotRunning, ask

    directory = state_of(config)
    with said_plainly(command, directory):
        try:
            ask(directory, command)
            return ask(directory, "status")
        except NotRunning as error:
            sys.exit(f"{error}; start it{otherwise}")
