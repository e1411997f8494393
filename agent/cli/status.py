"""``ga4-agent status``: how the agent is, whether the daemon runs or not."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, state_of

if TYPE_CHECKING:
    from agent.event import Stamp

PLAIN_WIDTH = 1000  # columns where there is no terminal to measure


@click.command("status")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def command(config: Path | None, *, as_json: bool) -> None:
    """Show state, queue and ledger.

    Asks the daemon; if it is not running, reads its file.

    Exit status: 0 shown, 1 could not, 2 wrong usage or configuration.
    """
    document = _status(config, state_of(config))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)


def _status(config: Path | None, directory: Path) -> Mapping[str, Any]:
    from agent.control import ControlError, NotRunning, ask
    from agent.queue.reader import CannotRead

    try:
        status: Mapping[str, Any] = ask(directory, "status")
    except (NotRunning, PermissionError):
        try:
            return of_file(config, directory)
        except CannotRead as error:
            sys.exit(str(error))
    except (ControlError, OSError) as error:
        sys.exit(f"cannot ask the daemon: {getattr(error, 'strerror', None) or error}")
    return status


def of_file(config: Path | None, directory: Path) -> Mapping[str, Any]:
    """What the files of a stopped daemon say. Raises CannotRead.

    Nobody was there for what happened since the last write, and for what waits in the spool folder.
    """
    from agent.boots import Boots
    from agent.clock import Clock
    from agent.queue.opening import report
    from agent.queue.reader import read_snapshot
    from agent.status import Observation, oldest_us, status_of

    snapshot, clock, spool = read_snapshot(directory), Clock(), _spool(config, directory)
    when = partial(Boots.of(snapshot.boots).when, now=clock.moment())
    times = [when(stamp).us for stamp in (snapshot.alive, spool.oldest if spool else None) if stamp]
    found = report(directory)
    seen = Observation(
        books=snapshot.books,
        used_bytes=snapshot.used_bytes,
        max_bytes=None,
        oldest_us=oldest_us(snapshot.candidates, when),
        taken_until_us=min(times, default=None),
        running=False,
        damage=found.damage,
        set_aside=found.set_aside,
    )
    more = {"spool": {"files": spool.files}} if spool else {}
    return {**status_of(seen, clock).document, **more}


@dataclass(frozen=True, slots=True)
class _Spool:
    """What waits in the spool folder: how many files, and when the oldest was written."""

    files: int
    oldest: "Stamp | None"


def _spool(config: Path | None, directory: Path) -> _Spool | None:
    """What waits for the daemon; None if nobody can tell."""
    from agent.boot_config import choose, config_path
    from agent.config import Config, ConfigError
    from agent.event import Stamp
    from agent.intake.source import SourceUnavailable
    from agent.intake.spool_folder import SpoolFolder

    try:
        chosen = choose(config_path(config), environ=os.environ).config
    except ConfigError:
        chosen = Config(state_directory=directory)
    folder = SpoolFolder(chosen.spool_directory)
    try:
        names = folder.names()
    except SourceUnavailable:
        return None
    written = []
    for name in names:
        with suppress(OSError):  # it may be taken, or renamed, at any moment
            written.append((folder.path / name).lstat().st_mtime_ns // 1000)
    oldest = Stamp(max(0, min(written)), 0, "", trusted=False) if written else None
    return _Spool(len(names), oldest)


def _show(document: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    for name, value in _rows(document):
        table.add_row(Text(name), Text(value))
    console = Console(highlight=False)
    # A program that reads lines must not find them broken.
    console.width = console.width if console.is_terminal else PLAIN_WIDTH
    console.print(table)


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from agent.units import counted, format_size

    queue = document["queue"]
    yield "state", _joined(document["state"], document["reason"])
    yield "queue", f"{counted(queue['events'], 'event')}, {format_size(queue['bytes'])}"
    if queue["oldest_age_s"] is not None:
        yield "oldest event", _oldest(queue)
    yield "complete until", queue["complete_until"]
    if files := document.get("spool", {}).get("files"):
        yield "spool folder", f"{counted(files, 'file')} waiting for the daemon"
    yield from _books(document["ledger"])
    if damage := document.get("damage"):
        yield "damage", _damage(damage)
    for name in document.get("set_aside", ()):
        yield "set aside", f"{name}: written by a newer version, taken over after the next upgrade"
    yield "clock", _clock(document["clock"])
    for warning in document["warnings"]:
        yield "warning", warning
    for stream in document["streams"]:
        yield f"stream {stream['stream']}", _stream(stream)
    for name, source in document["sources"].items():
        yield f"source {name}", source["problem"] or "ok"


def _books(ledger: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    figures = {**ledger, "dropped": sum(ledger["dropped"].values())}
    names = ("received", "sent", "queued", "dead", "dropped")
    yield "ledger", ", ".join(f"{figures[name]} {name}" for name in names)
    for kind in ("dropped", "refused", "repaired", "noted"):
        for reason, number in ledger[kind].items():
            yield kind, f"{number} {reason}"
    yield "books", "balance" if ledger["balanced"] else "DO NOT BALANCE: please report this"


def _damage(damage: Mapping[str, Any]) -> str:
    """What became of the queue's file the last time that it was damaged."""
    lost, more = damage["lost"], damage["damaged"]
    return _joined(
        f"{damage['when']}: the queue was damaged, {damage['saved']:,} events were saved",
        "nobody can tell how many are lost" if lost is None else f"{lost:,} are lost",
        f"{more:,} more are dead letters (damaged)" if more else "",
        f"the damaged file: {damage['file']}"
        if damage["file"] and Path(damage["file"]).exists()
        else "",
    )


def _clock(clock: Mapping[str, Any]) -> str:
    if not clock["trusted"]:
        return "not trusted yet: times are corrected when it is"
    source = {"ntp": "by NTP", "date": "by an answer's date"}[clock["by"]]
    return f"trusted {source}, to {clock['error_s']:.1f} s"


def _oldest(queue: Mapping[str, Any]) -> str:
    from agent.cli.ages import in_two_units, rounded

    left = queue["oldest_expires_in_s"]
    more = f"GA4 takes it for {in_two_units(left)} more"
    return _joined(
        f"{rounded(queue['oldest_age_s'])} old",
        more if left > 0 else "too old: see [stream.NAME] late",
    )


def _stream(stream: Mapping[str, Any]) -> str:
    from agent.cli.ages import rounded

    ago, wait = stream["delivered_ago_s"], stream["next_try_s"]
    return _joined(
        stream["state"],
        stream["reason"],
        "nothing delivered since the start" if ago is None else f"delivered {rounded(ago)} ago",
        f"next try in {rounded(wait)}" if wait else "",
    )


def _joined(*parts: str) -> str:
    return " - ".join(part for part in parts if part)
