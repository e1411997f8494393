"""``ga4-agent identity``: the id by which GA4 knows this device."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG, YES, state_of
from agent.cli.plainly import asking, said_plainly
from agent.units import counted

if TYPE_CHECKING:
    from agent.intake.identity import Seen

YEAR_MIN = 2020  # a clock that says less was never set
MACHINES = {
    "this": "this one",
    "another": "another one: the agent makes ids of its own when it starts here",
    "unknown": "not known: a copy of the card in another machine would not be noticed",
}


@click.group("identity")
def command() -> None:
    """Look at the id by which GA4 knows this device, or change it.

    Exit status: 0 done, 1 not done, 2 wrong usage or configuration.
    """


@command.command("show")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def show(config: Path | None, *, as_json: bool) -> None:
    """Show the client id, since when it is, and whether it was made on this machine.

    The daemon may run or not.

    Exit status: 0 shown, 1 there is none or it cannot be read, 2 wrong usage or configuration.
    """
    from agent.intake.identity import NoIdentity, look

    directory = state_of(config)
    try:
        with said_plainly("show the id", directory):
            seen = look(directory)
    except NoIdentity as error:
        sys.exit(f"cannot show the id: {error}")
    if as_json:
        click.echo(json.dumps(_document(seen), indent=2))
        return
    click.echo(f"client id    {seen.identity.client_id}")
    click.echo(f"since        {_since(seen) or 'not known: the clock was not set'}")
    click.echo(f"machine      {MACHINES[seen.machine]}")
    click.echo(f"broker's id  {seen.identity.mqtt_client_id}")
    for note in _notes(config):
        click.echo(note, err=True)


@command.command("reset")
@CONFIG
@YES
def reset(config: Path | None, *, yes: bool) -> None:
    """Make a new client id, after asking. From then on reports count this device as another user.

    Events that wait keep the old id, and so does what GA4 has already. The broker's id stays, so
    that no message is lost. The daemon does it, and uses the new id at once; while it is stopped,
    this command does.

    Exit status: 0 there is a new id, 1 there is none, 2 wrong usage or configuration.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("cannot ask: found no terminal; say --yes if you are sure")
    directory = state_of(config)
    with said_plainly("reset the id", directory):
        if not directory.exists():
            sys.exit(f"cannot reset the id: found no {directory}; the agent makes it at its start")
    if not yes and not _confirmed():
        sys.exit("the id stays as it was")
    with said_plainly("reset the id", directory):
        client_id = _reset(directory)
    click.echo(f"the client id is {client_id} now; events that wait keep the old one")
    for note in _notes(config):
        click.echo(note, err=True)


@command.command("clean")
@CONFIG
def clean(config: Path | None) -> None:
    """Remove the ids, before an image is taken of this machine's disk.

    Each machine that is started from the image then makes its own. The daemon must be stopped
    (systemctl stop ga4-agent), and started only after the image is taken: it makes new ids.

    Exit status: 0 there are none any more, 1 they are still there, 2 wrong usage or configuration.
    """
    from agent.intake.identity import clean as remove

    directory = state_of(config)
    there, waiting = False, 0
    with said_plainly("remove the ids", directory):
        if directory.exists():  # an image may be made before the agent ever ran
            with _own(directory):
                there, waiting = remove(directory), _waiting(directory)
    gone = "the ids are removed" if there else "there are no ids"
    click.echo(f"{gone}: take the image before the agent starts again")
    if waiting:
        click.echo(
            f"but {counted(waiting, 'event')} in the queue would be in the image, too, and "
            "delivered by every copy: empty it first with ga4-agent drain, or queue purge",
            err=True,
        )


# -- looking ----------------------------------------------------------------------------------


def _document(seen: "Seen") -> dict[str, str | None]:
    return {
        "client_id": seen.identity.client_id,
        "since": _since(seen),
        "machine": seen.machine,
        "mqtt_client_id": seen.identity.mqtt_client_id,
    }


def _since(seen: "Seen") -> str | None:
    """None: nobody knows, or the clock that said it was wrong."""
    try:
        since = datetime.fromtimestamp((seen.since_us or 0) / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return since.isoformat(timespec="seconds") if since.year >= YEAR_MIN else None


def _notes(config: Path | None) -> Iterator[str]:
    """What the configuration makes of the id."""
    from agent.boot_config import config_path
    from agent.config import ConfigError, load

    try:
        device = load(config_path(config)).device
    except ConfigError:
        return
    if device.client_id != "auto":
        yield "but events carry the client_id that [device] in the configuration says"
    elif device.visitor == "sitting":
        yield 'but with visitor = "sitting" each visitor\'s sitting has an id of its own'


# -- changing ---------------------------------------------------------------------------------


def _confirmed() -> bool:
    with asking("the id stays as it was"):
        return click.confirm(
            "Make a new client id? Reports count this device as another user from now on; "
            "the old id does not come back."
        )


def _reset(directory: Path) -> str:
    """By the daemon or, while there is none, by this process with its lock; the new id."""
    from agent.control import NotRunning, ask

    try:
        return str(ask(directory, "reset_identity")["client_id"])
    except NotRunning:
        from agent.clock import wall_us
        from agent.intake.identity import reset

        with _own(directory):
            return reset(directory, wall_us=wall_us).client_id


@contextmanager
def _own(directory: Path) -> Iterator[None]:
    """Have the state to oneself, as its owner. Raises AlreadyOwned, OSError."""
    from agent.ownership import StateLock
    from agent.rights import as_owner

    with as_owner(directory):
        lock = StateLock.take(directory)
        try:
            yield
        finally:
            lock.release()


def _waiting(directory: Path) -> int:
    """How many events are in the queue; none if it cannot be read."""
    from agent.queue.reader import CannotRead, read_snapshot

    try:
        return read_snapshot(directory).books.queued
    except CannotRead:
        return 0
