"""``ga4-agent tail``: events as they come in."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, state_of

if TYPE_CHECKING:
    from rich.text import Text

LONG = 200  # characters of a value that a line shows
PAUSE = 0.5  # seconds between looks
WHO = "run this as root or as the service's own user"


@click.command("tail")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def command(config: Path | None, *, as_json: bool) -> None:
    """Show what comes in, until Ctrl-C.

    And what of it is refused, and why. Only root and the service's own user may: events hold ids.

    Exit status: 0 it was ended, 1 the daemon is not running or ended, 2 wrong usage or
    configuration.
    """
    show = _show_json if as_json else _show
    try:
        for look in _looks(state_of(config)):
            show(look)
    except KeyboardInterrupt:
        return


def _looks(directory: Path) -> Iterator[Mapping[str, Any]]:
    from agent.control import ControlError, NotRunning, ask

    newest: int | None = None
    while True:
        try:
            look = ask(directory, "recent", after=newest)
        except (NotRunning, ControlError) as error:
            sys.exit(str(error))
        except PermissionError:
            sys.exit(f"cannot ask the daemon: you may not; {WHO}")
        except OSError as error:
            sys.exit(f"cannot ask the daemon: {error.strerror or error}")
        newest = look["newest"]
        yield look
        time.sleep(PAUSE)


def _show_json(look: Mapping[str, Any]) -> None:
    for sighting in look["sightings"]:
        click.echo(json.dumps(sighting))


def _show(look: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if look["missed"]:
        console.print(f"… and {look['missed']} more that came in faster than this can show")
    for sighting in look["sightings"]:
        for line in _lines(sighting):
            console.print(line)


def _lines(sighting: Mapping[str, Any]) -> Iterator["Text"]:
    from rich.text import Text

    source = f"{sighting['source']:5}"
    for item in sighting["items"]:
        style = "bold red" if "raw" in item else ""
        yield Text(_plain(f"{_time(item)}  {source}  {_item(item)}"), style)
    verdict = "why" if any("raw" in item for item in sighting["items"]) else "refused"
    for error in sighting["rejected"]:
        where = f"{error['fieldPath']}: " if error["fieldPath"] else ""
        at = _clock(datetime.fromisoformat(sighting["time"]))
        yield Text(_plain(f"{at}  {source}  {verdict}: {where}{error['description']}"), "red")


def _item(item: Mapping[str, Any]) -> str:
    if "raw" in item:
        return f"dead letter: {item['reason']}"
    pairs = (f"{_cut(key)}: {_cut(value)}" for key, value in item.get("params", {}).items())
    return f"{item.get('stream', '*')}  {item['name'][:LONG]}  {{{', '.join(pairs)}}}"


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else text[:LONG] + "…"


def _plain(text: str) -> str:
    """Without what a terminal would obey: anybody may name an event."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _time(item: Mapping[str, Any]) -> str:
    """When the agent took it, by this device's clock."""
    return _clock(datetime.fromtimestamp(item["stamp"]["wall_us"] / 1e6, UTC))


def _clock(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S")
