"""``ga4-agent map``: what becomes of an MQTT message, without a broker and without a daemon."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG
from agent.units import counted

if TYPE_CHECKING:
    from agent.config import Config
    from agent.event import Event, InvalidEvent
    from agent.intake.identity import Identity
    from agent.intake.sorting import Message

OWN = "the device's own"
UNKNOWN = "(not made yet, or not readable)"  # in the place of the device's own id


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of the message.

    ``subscription``: the filter that fits, as it was written. ``own``: the device's ids.
    ``filters``: all there are, for whom none fits.
    """

    subscription: str | None = None
    events: Sequence["Event"] = ()
    rejected: Sequence["InvalidEvent"] = ()
    ignored: str | None = None
    own: frozenset[str | None] = frozenset()
    filters: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Whether all of it becomes events."""
        return bool(self.events) and not self.rejected


@click.command("map")
@CONFIG
@click.option("--topic", required=True, metavar="T", help="The topic of the message.")
@click.option(
    "--payload", required=True, metavar="P", help="The payload; - reads it from standard input."
)
@click.option("--retained", is_flag=True, help="The broker kept the message and repeats it.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def command(
    config: Path | None, topic: str, payload: str, *, retained: bool, as_json: bool
) -> None:
    """Show what becomes of an MQTT message.

    That is the subscription that fits, and each event. Needs no broker and no daemon, and keeps nothing.

    \b
        ga4-agent map --topic kiosk/12/vend --payload '{"price": 2.5}'

    Exit status: 0 it becomes events, 1 it or a part of it does not, 2 wrong usage or
    configuration.
    """  # noqa: D301 - click wants the character itself, to keep the example on its line
    from agent.boot_config import config_path

    _check_topic(topic)
    path = config_path(config)
    outcome = _map(_loaded(path), path, topic, _bytes(payload), retained=retained)
    if as_json:
        document = json.dumps(_document(outcome), ensure_ascii=False, indent=2, default=dict)
        click.echo(document.encode())  # JSON is UTF-8, whatever the terminal's letters are
    else:
        _show(outcome, topic)
    sys.exit(0 if outcome.good else 1)


def _check_topic(topic: str) -> None:
    if not topic or set(topic) & set("+#"):
        raise click.UsageError("found a filter, expected --topic to be a topic without + and #")
    if not topic.isascii() and os.fsencode(topic).decode(errors="replace") != topic:
        raise click.UsageError("found bytes that are no UTF-8, expected --topic to be a text")


def _bytes(payload: str) -> bytes:
    return sys.stdin.buffer.read() if payload == "-" else os.fsencode(payload)


def _loaded(path: Path) -> "Config":
    from agent.config import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


# -- what the daemon would do -----------------------------------------------------------------


def _map(config: "Config", path: Path, topic: str, payload: bytes, *, retained: bool) -> Outcome:
    from agent import wiring
    from agent.intake.mqtt import fitting

    written = [each.topic for each in config.mqtt.subscriptions] if config.mqtt else []
    made = wiring.subscriptions(config.mqtt, config.stream) if config.mqtt else []
    subscription = fitting(made, topic)
    if subscription is None:
        return Outcome(filters=written)
    said = written[made.index(subscription)]
    if retained and not subscription.retained:
        return Outcome(subscription=said, ignored="retained")
    return _sorted(config, path, said, subscription.message(topic, payload))


def _sorted(config: "Config", path: Path, subscription: str, message: "Message") -> Outcome:
    from agent import wiring
    from agent.clock import Clock
    from agent.event import Event

    identity = _identity(path)
    streams, _ = wiring.streams(config, {})  # an event is the same without the secrets
    taken = wiring.sorter(config, identity, streams).sort(message, Clock().stamp())
    device = config.device
    client_id = identity.client_id if device.client_id == "auto" else device.client_id
    return Outcome(
        subscription=subscription,
        events=[item for item in taken.items if isinstance(item, Event)],
        rejected=taken.rejected,
        own=frozenset((client_id, device.app_instance_id)),
    )


def _identity(path: Path) -> "Identity":
    """The device's ids as they are: a look must not make them."""
    from agent.boot_config import state_directory
    from agent.intake.identity import FILE_NAME, Identity

    try:
        stored = json.loads((state_directory(path, os.environ) / FILE_NAME).read_bytes())
        return Identity(str(stored["client_id"]), str(stored["mqtt_client_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Identity(UNKNOWN, UNKNOWN)


# -- for programs -----------------------------------------------------------------------------


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "subscription": outcome.subscription,
        "events": [_event(event, outcome.own) for event in outcome.events],
        "rejected": [
            {"fieldPath": e.field_path, "description": e.description, "validationCode": e.code}
            for e in outcome.rejected
        ],
        "ignored": outcome.ignored,
    }


def _event(event: "Event", own: frozenset[str | None]) -> dict[str, Any]:
    from agent.event import UNASSIGNED

    sender = event.sender.body
    return {
        "name": event.name,
        "params": dict(event.params),
        "stream": None if event.stream == UNASSIGNED else event.stream,
        "priority": event.priority.name.lower(),
        "actor": event.actor,
        "session": event.session,
        "event_id": event.event_id,
        "timestamp_micros": event.time_us,
        "sender": {key: None if value == UNKNOWN else value for key, value in sender.items()},
        "device": _id(event)[1] in own,
    }


def _id(event: "Event") -> tuple[str, str | None]:
    """Whose event it is: which kind of id, and the id."""
    sender = event.sender
    if sender.client_id is None and sender.app_instance_id is not None:
        return "app instance id", sender.app_instance_id
    return "client id", sender.client_id


# -- for people -------------------------------------------------------------------------------


def _show(outcome: Outcome, topic: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in _verdict(outcome, topic):
        console.print(Text(_printable(line)))
    for event in outcome.events:
        table = Table(show_header=False, box=None)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in _rows(event, outcome.own):
            table.add_row(Text(_printable(name)), Text(_printable(value)))
        console.print()
        console.print(table)


def _verdict(outcome: Outcome, topic: str) -> Iterator[str]:
    if outcome.subscription is None:
        yield f"no subscription fits {topic}"
        filters = ", ".join(outcome.filters)
        yield f"the filters are {filters}" if filters else "the configuration has no [mqtt] table"
        return
    yield f"subscription {outcome.subscription}"
    if outcome.ignored:
        yield "ignored: it is retained, and the subscription does not say retained = true"
        return
    number = len(outcome.events)
    for error in outcome.rejected:
        element = re.match(r"\[(\d+)\]", error.field_path) if number else None
        what = f"element {int(element[1]) + 1} becomes" if element else "becomes no event, but"
        yield f"{what} a dead letter: {error}"
    if number:
        rest = "the rest " if outcome.rejected else ""
        yield f"{rest}becomes {counted(number, 'event')}"


def _rows(event: "Event", own: frozenset[str | None]) -> Iterator[tuple[str, str]]:
    shown = _event(event, own)
    yield "name", event.name
    for key, value in event.params.items():
        yield f"param {key}", json.dumps(value, ensure_ascii=False)
    yield "stream", shown["stream"] or "none yet: it waits for the first stream"
    yield "priority", shown["priority"]
    kind, id_ = _id(event)
    yield kind, OWN if shown["device"] else id_ or "none"
    yield from _more_of_sender(event.sender.body)
    for key in ("actor", "session"):
        yield key, shown[key] or "not said"


def _more_of_sender(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in body.items():
        if key not in ("client_id", "app_instance_id"):
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False, default=dict)
            )
            yield key.replace("_", " "), text


def _printable(text: str) -> str:
    """A message can hold anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
