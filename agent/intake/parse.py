"""Bytes to drafts of events: a Measurement Protocol body, one event, or an array of events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from agent import jsontext
from agent.event import NOTHING, InvalidEvent, Json, Priority, Sender
from agent.ga4.request import EVENTS_MAX
from agent.jsontext import NotJson

TEXT_MAX = 256  # characters of an event_id: room for any id scheme, bounded in the queue
TIME_MAX = 2**53  # microseconds: beyond it a JSON number is not exact any more

EVENT_KEYS = frozenset(
    ("name", "params", "timestamp_micros", "event_id", "session", "actor", "priority")
)
OBJECTS = ("user_properties", "consent", "device", "user_location")
TEXTS = ("client_id", "app_instance_id", "user_id")
REST = ("user_data", "ip_override", "user_agent", "non_personalized_ads", "validation_behavior")
SENDER_KEYS = frozenset((*OBJECTS, *TEXTS, *REST))
BODY_KEYS = SENDER_KEYS | {"events", "timestamp_micros"}
PRIORITIES = {priority.name.lower(): priority for priority in Priority}


class Shape(Enum):
    """What a source may hand in."""

    BODY = "a Measurement Protocol body"
    ANY = "an event, an array of events or a Measurement Protocol body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event as it was said, before the door adds what the device knows."""

    name: str
    params: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    sender: Sender = field(default_factory=Sender)
    event_id: str | None = None
    time_us: int | None = None
    session: Literal["start", "end"] | None = None
    actor: str | None = None
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class Misfit:
    """An element that is no event: why, and its own bytes for the dead letter."""

    error: InvalidEvent
    payload: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was found. ``whole``: accept all or nothing, as GA4 does with a body."""

    elements: tuple[Draft | Misfit, ...]
    whole: bool


def parse(payload: bytes, shape: Shape) -> Parsed:
    """Read a payload. Raises InvalidEvent when there is nothing in it to speak of singly."""
    try:
        value = jsontext.loads(payload)
    except NotJson as error:
        raise InvalidEvent("", str(error)) from None
    if isinstance(value, dict) and ("events" in value or shape is Shape.BODY):
        return Parsed(_body(value), whole=True)
    if isinstance(value, dict):
        return Parsed((_element(value, "", Sender(), None, EVENT_KEYS | SENDER_KEYS),), whole=False)
    if isinstance(value, list) and shape is Shape.ANY:
        return Parsed(_array(value), whole=False)
    raise InvalidEvent("", f"found {_kind(value)}, expected {shape.value}")


def _array(values: list[Any]) -> tuple[Draft | Misfit, ...]:
    if not values:
        raise InvalidEvent("", "found an empty array, expected at least one event")
    return tuple(
        _element(value, f"[{i}]", Sender(), None, EVENT_KEYS | SENDER_KEYS)
        for i, value in enumerate(values)
    )


def _body(body: dict[str, Any]) -> tuple[Draft | Misfit, ...]:
    _known_keys(body, "", BODY_KEYS)
    events = body.get("events")
    if not isinstance(events, list) or not events:
        raise InvalidEvent(
            "events", f"found {_kind(events)}, expected 1 to {EVENTS_MAX} events", "VALUE_REQUIRED"
        )
    if len(events) > EVENTS_MAX:
        raise InvalidEvent(
            "events",
            f"found {len(events)} events, expected at most {EVENTS_MAX}",
            "EXCEEDED_MAX_ENTITIES",
        )
    sender, time_us = _sender(body, ""), _time(body, "")
    return tuple(
        _element(event, f"events[{i}]", sender, time_us, EVENT_KEYS)
        for i, event in enumerate(events)
    )


def _element(
    value: Any, path: str, sender: Sender, time_us: int | None, keys: frozenset[str]
) -> Draft | Misfit:
    try:
        return _draft(value, path, sender, time_us, keys)
    except InvalidEvent as error:
        return Misfit(error, jsontext.dumps(value))


def _draft(
    value: Any, path: str, sender: Sender, time_us: int | None, keys: frozenset[str]
) -> Draft:
    if not isinstance(value, dict):
        raise InvalidEvent(path, f"found {_kind(value)}, expected an event")
    _known_keys(value, path, keys)
    params = _optional(value, path, "params", dict, "an object")
    own_time = _time(value, path)
    return Draft(
        name=_name(value, path),
        params=jsontext.frozen(params or {}),
        sender=_sender(value, path) if "client_id" in keys else sender,
        event_id=_text(value, path, "event_id"),
        time_us=time_us if own_time is None else own_time,
        session=_choice(value, path, "session", ("start", "end")),
        actor=_choice(value, path, "actor", ("human", "machine")),
        priority=PRIORITIES.get(_choice(value, path, "priority", tuple(PRIORITIES)) or ""),
    )


def _name(event: dict[str, Any], path: str) -> str:
    name = event.get("name")
    if isinstance(name, str) and name:
        return name
    raise InvalidEvent(
        _join(path, "name"), f"found {_kind(name)}, expected the event's name", "VALUE_REQUIRED"
    )


def _sender(value: dict[str, Any], path: str) -> Sender:
    texts = {key: _text(value, path, key) for key in TEXTS}
    objects = {
        key.removeprefix("user_") if key == "user_location" else key: jsontext.frozen(
            _optional(value, path, key, dict, "an object") or {}
        )
        for key in OBJECTS
    }
    rest = jsontext.frozen({key: value[key] for key in REST if key in value})
    fields: dict[str, Any] = {**texts, **objects, "rest": rest}
    return Sender(**fields)


def _time(value: dict[str, Any], path: str) -> int | None:
    time = value.get("timestamp_micros")
    if time is None:
        return None
    number = isinstance(time, int | float) and not isinstance(time, bool)
    if number and 0 < time < TIME_MAX and time == int(time):
        return int(time)
    raise InvalidEvent(
        _join(path, "timestamp_micros"), f"found {_kind(time)}, expected microseconds since 1970"
    )


def _text(value: dict[str, Any], path: str, key: str) -> str | None:
    text = _optional(value, path, key, str, "a text")
    if text is not None and not 0 < len(text) <= TEXT_MAX:
        raise InvalidEvent(
            _join(path, key),
            f"found a text of {len(text)} characters, expected 1 to {TEXT_MAX}",
            "VALUE_REQUIRED" if not text else "VALUE_OUT_OF_BOUNDS",
        )
    return text  # type: ignore[no-any-return]  # checked to be a str


def _choice(value: dict[str, Any], path: str, key: str, choices: tuple[str, ...]) -> Any:
    if value.get(key) is None:
        return None
    if isinstance(value[key], str) and value[key] in choices:
        return value[key]
    expected = " or ".join(f'"{choice}"' for choice in choices)
    raise InvalidEvent(_join(path, key), f"found {_kind(value[key])}, expected {expected}")


def _optional(value: dict[str, Any], path: str, key: str, kind: type, expected: str) -> Any:
    found = value.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise InvalidEvent(_join(path, key), f"found {_kind(found)}, expected {expected}")


def _known_keys(value: dict[str, Any], path: str, known: frozenset[str]) -> None:
    for key in value:
        if key not in known:
            raise InvalidEvent(
                path, f"found the unknown key {key[:40]!r}, expected {', '.join(sorted(known))}"
            )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(value: Any) -> str:
    """What was found, without its content: contents can be ids."""
    if value is None:
        return "nothing"
    if value == "" or value in ([], {}):
        return {"": "an empty text"}.get(value, "nothing") if isinstance(value, str) else "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")
