"""``ga4-agent tail``: events as they come in, and what GA4 would say of them."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, state_of

if TYPE_CHECKING:
    from rich.text import Text

LONG = 200  # characters of a value that a line shows
PAUSE = 0.5  # seconds between looks
OBJECTIONS = 3  # of an event that people are shown
WHO = "run this as root or as the service's own user"
OF_THE_EVENT = "events[0]."

Messages = Sequence[Mapping[str, str]]
Judge = Callable[[Mapping[str, Any]], Messages | None]
"""What GA4 would say of an item of the queue; None of what is no event, or cannot be judged."""


@click.command("tail")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def command(config: Path | None, *, as_json: bool) -> None:
    """Show what comes in, until Ctrl-C, and what GA4 would say of it.

    ok: GA4 will take it as it is. What was repaired so that it will, is said, and so is what is
    refused, and why. Only root and the service's own user may: events hold ids.

    Exit status: 0 it was ended, 1 the daemon is not running or ended, 2 wrong usage or
    configuration.
    """
    directory, judge = state_of(config), _judge(config)
    show = _show_json if as_json else _show
    try:
        for look in _looks(directory):
            show(look, judge)
    except KeyboardInterrupt:
        return


def _judge(given: Path | None) -> Judge:
    """By the rules of the streams that the daemon runs on; without them nothing can be said."""
    from agent import wiring
    from agent.boot_config import choose, config_path
    from agent.clock import Clock
    from agent.config import ConfigError

    try:
        config = choose(config_path(given), environ=os.environ).config
    except ConfigError:
        return lambda _item: None
    return partial(_judged, partial(wiring.debug_answer, config, Clock()))


def _judged(
    answer: Callable[[str | None, bytes], Mapping[str, Any]], item: Mapping[str, Any]
) -> Messages | None:
    from agent import jsontext
    from agent.intake.parse import SENDER_KEYS

    if "raw" in item:
        return None
    # Without the stamp: delivery knows how to correct it.
    event = {key: item[key] for key in ("name", "params", "timestamp_micros") if key in item}
    body = {key: item[key] for key in item if key in SENDER_KEYS}
    messages: Messages = answer(item.get("stream"), jsontext.dumps({**body, "events": [event]}))[
        "validationMessages"
    ]
    return messages


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


def _show_json(look: Mapping[str, Any], judge: Judge) -> None:
    """``validationMessages``: for each of the items, null for those that are not judged."""
    for sighting in look["sightings"]:
        messages = [judge(item) for item in sighting["items"]]
        click.echo(json.dumps({**sighting, "validationMessages": messages}))


def _show(look: Mapping[str, Any], judge: Judge) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if look["missed"]:
        console.print(f"… and {look['missed']} more that came in faster than this can show")
    for sighting in look["sightings"]:
        for line in _lines(sighting, judge):
            console.print(line)


def _lines(sighting: Mapping[str, Any], judge: Judge) -> Iterator["Text"]:
    """A line for each event and dead letter, for each objection, and for what was done."""
    items, done = sighting["items"], _done(sighting)
    alone = len(items) == 1 and "raw" not in items[0]
    for item in items:
        start = _start(item, sighting)
        yield from _item_lines(item, judge(item), start, done if alone else "")
    yield from _untaken(sighting, "why" if any("raw" in item for item in items) else "refused")
    if done and not alone:
        yield _line(sighting, f"of these {len(items)}: {done}" if items else done, "yellow")


def _untaken(sighting: Mapping[str, Any], verdict: str) -> Iterator["Text"]:
    """What never came to the door, what it refused, and what it had taken before."""
    if away := sighting["turned_away"]:
        yield _line(sighting, f"refused ({away['reason']}): {away['why']}", "red")
    for error in sighting["rejected"]:
        said = (verdict, error.get("event"), error["fieldPath"], error["description"])
        yield _line(sighting, ": ".join(filter(None, said)), "red")
    if again := sighting["duplicate_events"]:
        yield _line(sighting, f"duplicate: {', '.join(again)}", "yellow")


def _item_lines(
    item: Mapping[str, Any], messages: Messages | None, start: str, done: str
) -> Iterator["Text"]:
    from rich.text import Text

    verdict = "ok" if messages is not None and not messages else ""
    said = "; ".join(filter(None, (verdict, done)))
    style = "bold red" if "raw" in item else ""
    yield Text(_plain(f"{start}{_item(item)}{'  ' if said else ''}{said}"), style)
    for message in (messages or ())[:OBJECTIONS]:
        yield Text(_plain(f"{start}GA4: {_objection(message)}"), "yellow")
    if messages and len(messages) > OBJECTIONS:
        yield Text(_plain(f"{start}GA4: … and {len(messages) - OBJECTIONS} more"), "yellow")


def _objection(message: Mapping[str, str]) -> str:
    where = message.get("fieldPath", "").removeprefix(OF_THE_EVENT)
    return f"{where}: {message['description']}" if where else message["description"]


def _done(sighting: Mapping[str, Any]) -> str:
    """What became of a message beside its items, in words of the ledger."""
    found: dict[str, list[str]] = {}
    for name, number in sighting["counts"].items():
        group, _, kind = name.partition(".")
        found.setdefault(group, []).append(f"{kind} {number}")
    if sighting["duplicates"] and not sighting["duplicate_events"]:
        found["taken before"] = [str(sighting["duplicates"])]
    return "; ".join(f"{group}: {', '.join(kinds)}" for group, kinds in found.items())


def _line(sighting: Mapping[str, Any], text: str, style: str) -> "Text":
    from rich.text import Text

    return Text(_plain(f"{_seen(sighting):%H:%M:%S}  {sighting['source']:5}  {text}"), style)


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


def _start(item: Mapping[str, Any], sighting: Mapping[str, Any]) -> str:
    """When it happened, if it says so itself; else when the agent took it. And from where.

    With the day, if it came in on another one.
    """
    us = item.get("timestamp_micros", item["stamp"]["wall_us"])
    at, seen = datetime.fromtimestamp(us / 1e6, UTC).astimezone(), _seen(sighting)
    day = "" if at.date() == seen.date() else f"{at:%Y-%m-%d} "
    return f"{day}{at:%H:%M:%S}  {sighting['source']:5}  "


def _seen(sighting: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(sighting["time"]).astimezone()
