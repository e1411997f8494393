"""``ga4-agent demo``: the whole way of an event, an outage and a kill -9, on this machine."""

import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.demo.broker import Program
    from agent.demo.pace import Pause
    from agent.demo.stage import Stage

FRAME = 0.1  # seconds between two looks of the live view
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("demo")
@click.option("--fast", is_flag=True, help="Do not wait for a person to follow.")
@click.option("--plain", is_flag=True, help="Lines instead of the live view, and fast.")
@click.option(
    "--broker",
    type=click.Choice(["mosquitto", "amqtt"]),
    help="Default: mosquitto where it is installed, else amqtt.",
)
def command(broker: "Program | None", *, fast: bool, plain: bool) -> None:
    """Show the agent at work.

    Needs no configuration, broker or account. Starts a local GA4, a broker and the agent; sends events by MQTT and HTTP; takes GA4 away;
    kills the agent; brings both back; and counts. On a terminal it is a live view of half a
    minute, elsewhere lines within seconds.

    Exit status: 0 the books balance, 1 not, 130 ended by Ctrl-C.
    """
    from agent.demo.pace import Interrupted, pause_until

    stop = threading.Event()
    with _signals(stop) as seen:
        try:
            balanced = _perform(broker, pause_until(stop), fast=fast, plain=plain)
        except Interrupted:
            click.echo("ended by hand: nothing of it is left on this machine")
            sys.exit(128 + seen[0])
    sys.exit(0 if balanced else 1)


def _perform(program: "Program | None", pause: "Pause", *, fast: bool, plain: bool) -> bool:
    from agent.demo.broker import NoBroker
    from agent.demo.stage import Stage

    with tempfile.TemporaryDirectory(prefix="ga4-agent-demo-") as directory:
        try:
            stage = Stage(directory=Path(directory), program=program)
        except NoBroker as missing:
            click.echo(str(missing))
            return False
        return _lines(stage, pause) if plain else _live(stage, pause, fast=fast)


def _lines(stage: "Stage", pause: "Pause") -> bool:
    from agent.demo.lines import Lines
    from agent.demo.pace import AT_ONCE
    from agent.demo.story import Story

    lines = Lines(say=click.echo)
    return Story(stage=stage, show=lines.show, pace=AT_ONCE, pause=pause).tell()


def _live(stage: "Stage", pause: "Pause", *, fast: bool) -> bool:
    """On a terminal that can show it; as lines elsewhere."""
    from rich.console import Console

    from agent.demo.pace import AT_ONCE, TO_WATCH
    from agent.demo.story import Story, watching
    from agent.demo.view import View, fits

    console = Console()
    # FORCE_COLOR makes rich call anything a terminal.
    if not (sys.stdout.isatty() and fits(console)):
        return _lines(stage, pause)
    pace = AT_ONCE if fast else TO_WATCH
    with View(console=console) as view:
        story = Story(stage=stage, show=view.show, pace=pace, pause=pause)
        with watching(story.look, every=FRAME):
            return story.tell()


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Have what ends a program set ``stop`` instead, so that everything is taken down in order.

    Gives the numbers of the signals that came.
    """
    seen: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        # From a thread: setting an Event inside a handler can meet its own lock.
        threading.Thread(target=stop.set).start()

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup has it
    ending = [n for n in ENDING if n != signal.SIGHUP or not ignored]
    before = {number: signal.signal(number, on_signal) for number in ending}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
