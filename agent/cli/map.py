"""``ga4-agent map``: what becomes of an MQTT message, without a broker and without a daemon."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG
from agent.units import counted

if TYPE_CHECKING:
    from agent.config import Config
    from agent.event import Event, InvalidEvent, Stamp
    from agent.intake.identity import Identity
    from agent.intake.message import Message

OWN = "the device's own"
UNKNOWN = "(not made yet, or not readable)"  # in the place of the device's own id
OF_KEY = "(an id made of the key)"  # in the place of what a card's number becomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of the message.

    ``subscription``: the filter that fits, as it was written. ``own``: the device's ids.
    ``keyed``: whose ids are made of keys. ``repaired``: what GA4 would not have taken, by kind.
    ``filters``: all there are, for whom none fits. ``now``:
    when the message was taken for one that came.
    """

    subscription: str | None = None
    events: Sequence["Event"] = ()
    rejected: Sequence["InvalidEvent"] = ()
    ignored: str | None = None
    repaired: Mapping[str, int] = field(default_factory=dict)
    own: frozenset[str | None] = frozenset()
    keyed: frozenset[str | None] = frozenset()
    filters: Sequence[str] = ()
    now: "Stamp | None" = None

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

    identity, now = _identity(path), Clock().stamp()
    taken = wiring.dry_sorter(config, identity).sort(message, now)
    device = config.device
    client_id = identity.client_id if device.client_id == "auto" else device.client_id
    own = frozenset((client_id, device.app_instance_id))
    events = [item for item in taken.stored if isinstance(item, Event)]
    return Outcome(
        subscription=subscription,
        events=events,
        rejected=taken.rejected,
        repaired=_repaired(taken.counts),
        own=own,
        keyed=_keyed(message, events) - own,
        now=now,
    )


def _repaired(counts: Mapping[str, int]) -> dict[str, int]:
    """What was repaired, of all that the ledger is told."""
    table = "repaired."
    return {
        key.removeprefix(table): number for key, number in counts.items() if key.startswith(table)
    }


def _keyed(message: "Message", events: "Sequence[Event]") -> frozenset[str | None]:
    """The ids that nobody said, in a message that has keys."""
    from agent.event import InvalidEvent
    from agent.intake.parse import Draft

    try:
        drafts = [each for each in message.parsed().elements if isinstance(each, Draft)]
    except InvalidEvent:
        return frozenset()
    if not any(draft.client_key for draft in drafts):
        return frozenset()
    said = {draft.sender.client_id for draft in drafts}
    return frozenset(event.sender.client_id for event in events) - said


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
        "events": [_event(event, outcome) for event in outcome.events],
        "rejected": [
            {"fieldPath": e.field_path, "description": e.description, "validationCode": e.code}
            for e in outcome.rejected
        ],
        "ignored": outcome.ignored,
        "repaired": dict(outcome.repaired),
    }


def _event(event: "Event", outcome: Outcome) -> dict[str, Any]:
    from agent.event import UNASSIGNED

    sender = event.sender.body
    own, keyed = _id(event)[1] in outcome.own, event.sender.client_id in outcome.keyed
    if keyed or sender.get("client_id") == UNKNOWN:
        sender["client_id"] = None
    return {
        "name": event.name,
        "params": dict(event.params),
        "stream": None if event.stream == UNASSIGNED else event.stream,
        "priority": event.priority.name.lower(),
        "actor": event.actor,
        "session": event.session,
        "event_id": event.event_id,
        "timestamp_micros": event.time_us,
        "time": _time(event, outcome.now),
        "sender": sender,
        "device": own,
        "keyed": keyed,
    }


def _time(event: "Event", now: "Stamp | None") -> str | None:
    """When it happened, as the publisher or an earlier stamp says it; None: when it came."""
    if event.time_us is not None:
        return _utc(event.time_us)
    return None if event.stamp == now else _utc(event.stamp.wall_us)


def _utc(time_us: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        for name, value in _rows(event, outcome):
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
    for kind, times in outcome.repaired.items():
        yield f"repaired, because GA4 would not take it: {kind.replace('_', ' ')} ({times})"


def _rows(event: "Event", outcome: Outcome) -> Iterator[tuple[str, str]]:
    shown = _event(event, outcome)
    yield "name", event.name
    for key, value in event.params.items():
        yield from _param(key, value)
    yield "stream", shown["stream"] or "none yet: it waits for the first stream"
    yield "priority", shown["priority"]
    yield "time", _when(event, shown["time"])
    kind, id_ = _id(event)
    yield kind, OWN if shown["device"] else OF_KEY if shown["keyed"] else id_ or "none"
    yield from _more_of_sender(event.sender.body)
    for key in ("actor", "session"):
        yield key, shown[key] or "not said"


def _param(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """A param as JSON writes it, so that its kind is seen: "2.5" is a text, 2.5 a number."""
    if key == "items" and isinstance(value, list):
        for index, item in enumerate(value):
            yield f"param items[{index}]", json.dumps(item, ensure_ascii=False, default=dict)
        return
    yield f"param {key}", json.dumps(value, ensure_ascii=False, default=dict)


def _when(event: "Event", time: str | None) -> str:
    if time is None:
        return "when the message comes"
    absolute = event.time_us is not None
    return f"{time}, as the publisher says" if absolute else f"{time}, by this device's clock"


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
