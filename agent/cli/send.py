"""``ga4-agent send``: one event, to the daemon or into the spool folder."""

import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, state_of
from agent.cli.output import say_if_possible
from agent.units import counted

if TYPE_CHECKING:
    from agent.config import Config


APP_INSTANCE_ID = re.compile("[0-9a-fA-F]{32}")
SHOWN = 40  # characters of a wrong argument that a message repeats
WHO = "run this as root, as the service's own user or as a member of its group"


def _installation(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    if value is None or APP_INSTANCE_ID.fullmatch(value):
        return value
    raise click.BadParameter(f"found {counted(len(value), 'character')}, expected 32 hex digits")


@click.command("send")
@CONFIG
@click.argument("name")
@click.argument("params", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--stream", metavar="NAME", help="The stream to send it to. Default: the first.")
@click.option("--client-id", metavar="ID", help="Whose event it is. Default: the device's.")
@click.option(
    "--app-instance-id",
    metavar="ID",
    callback=_installation,
    help="The same on an app stream: 32 hex digits.",
)
@click.option("--user-id", metavar="ID", help="The user's id.")
@click.option("--event-id", metavar="ID", help="Your own id of this event. Default: a random one.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]))
@click.option("--actor", type=click.Choice(["human", "machine"]), help="Who caused it.")
@click.option("--session", type=click.Choice(["start", "end"]), help="What it does to a sitting.")
def command(config: Path | None, name: str, params: Sequence[str], **options: str | None) -> None:
    """Hand in one event, whether the daemon runs or not.

    With the daemon down it lies in the spool folder until the daemon takes it.

    A VALUE is a number or true or false if JSON says so (21.5, -3, true), else text.

    \b
        ga4-agent send vend slot=B4 price=2.5 refunded=false

    Exit status: 0 the event is on the disk, 1 it is not, 2 wrong usage or configuration.
    """  # noqa: D301 - click's mark
    from agent.boot_config import config_path
    from agent.control import ControlError, NotRunning, ask

    if not all(map(_is_utf8, (name, *params, *filter(None, options.values())))):
        raise click.UsageError("cannot read the arguments: found bytes that are no UTF-8")
    if "=" in name:
        raise click.UsageError(f"found {_shown(name)} where NAME belongs: send NAME KEY=VALUE …")
    event = {"name": name, "params": _pairs(params), "event_id": f"e{secrets.token_hex(8)}"}
    event |= {option: value for option, value in options.items() if value is not None}
    try:
        ask(state_of(config), "send", event=event)
    except NotRunning:
        _leave(config_path(config), event)
    except ControlError as error:
        sys.exit(str(error))
    except PermissionError:
        sys.exit(f"cannot reach the daemon: you may not; {WHO}")
    except OSError as error:
        why = error.strerror or str(error)
        sys.exit(f"cannot tell whether the daemon took the event: {why}; send it again")
    else:
        say_if_possible(f"{name} is in the agent's queue on the disk")


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError(f"found {_shown(text)!r}, expected KEY=VALUE")
        if key in pairs:
            raise click.UsageError(f"cannot take {key} twice, expected each parameter once")
        pairs[key] = _value(value)
    return pairs


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _value(text: str) -> Any:
    """A number or boolean as JSON writes it, else the text: "01" and " 1" are texts."""
    from agent.jsontext import NotJson, loads

    try:
        value = loads(text.encode())
    except NotJson:
        return text
    bare = text.isascii() and text == text.strip()  # no byte order mark, no space
    return value if bare and isinstance(value, int | float) else text


def _is_utf8(text: str) -> bool:
    """Python gives bytes of an argument that are none as halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _leave(path: Path, event: Mapping[str, Any]) -> None:
    """Write a spool file. What the daemon could not take is refused here: nobody would hear."""
    from agent.clock import Clock
    from agent.config import ConfigError
    from agent.intake import spool_file
    from agent.jsontext import dumps

    try:
        config = _config(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if not config.spool.enabled:
        sys.exit("cannot keep the event: the daemon is not running and [spool] is not enabled")
    stamp = Clock().stamp()
    payload = dumps({**event, "stamp": spool_file.stamp_fields(stamp)})
    _refuse_unfit(config, payload)
    folder, name = config.spool_directory, f"send-{stamp.wall_us:016d}-{secrets.token_hex(4)}.json"
    try:
        with _as_the_service(config.state_directory):
            spool_file.make_folder(folder)
            spool_file.leave(folder, name, payload)
    except PermissionError:
        sys.exit(f"cannot keep the event in {folder}: you may not; {WHO}")
    except OSError as error:
        sys.exit(f"cannot keep the event in {folder}: {error.strerror}")
    say_if_possible(
        f"{event['name']} is in the spool folder; the daemon will take it when it starts"
    )


def _as_the_service(directory: Path) -> AbstractContextManager[None]:
    """Root works as the service's user, once the service has run."""
    from agent.rights import as_owner

    return as_owner(directory) if directory.exists() else nullcontext()


def _config(path: Path) -> "Config":
    """What the daemon would run on. Raises ConfigError."""
    from agent.boot_config import choose

    return choose(path, environ=os.environ).config


def _refuse_unfit(config: "Config", payload: bytes) -> None:
    from agent import wiring
    from agent.clock import Clock
    from agent.intake.message import Message
    from agent.intake.parse import Shape

    message = Message(source="send", payload=payload, shape=Shape.SPOOL)
    became = wiring.dry_sorter(config).sort(message, Clock().stamp())
    if became.nothing_taken:
        sys.exit(f"cannot take the event: {'; '.join(map(str, became.rejected))}")
