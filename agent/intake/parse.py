"""Bytes to drafts of events: a Measurement Protocol body, one event, or an array of events.

A spool file may also hold what an export or `send` wrote: events with their stamp and stream.
"""

import base64
import difflib
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from enum import Enum
from typing import Any, Literal, cast

from agent import jsontext
from agent.event import NOTHING, Beginning, InvalidEvent, Json, Priority, RawMessage, Sender, Stamp
from agent.ga4.debug import told
from agent.ga4.repair import Mended, reading
from agent.ga4.request import EVENTS_MAX
from agent.ga4.violation import Place
from agent.intake.spool_file import LINE_MAX
from agent.jsontext import NotJson, kind_of

TEXT_MAX = 256  # characters of an event_id: room for any id scheme, bounded in the queue
ID_MAX = 1000  # characters of a client_id: of what GA4 takes of it, its rules speak
COOKIES_MAX = 16 * 1024  # characters: what servers take of all headers together
RAW_MAX = 8 * 1024  # bytes of a malformed message that are kept for people
ELEMENTS_MAX = 10_000  # events of a message, so that one message needs little memory
SPOOL_DEPTH = jsontext.MAX_DEPTH + 4  # a mapping puts what it finds into params of its own
WHY_MAX = 1000  # characters of the sentence that says what is wrong with a raw message
TIME_MAX = 2**53  # microseconds: beyond it a JSON number is not exact any more

EVENT: Place = ("events", 0)  # where violations see an event: alone in a body of its own

EVENT_KEYS = frozenset(
    ("name", "params", "timestamp_micros", "event_id", "session", "actor", "priority")
)
OBJECTS = ("user_properties", "consent", "device", "user_location")
FIELDS = {"user_location": "location"}  # of a Sender, where it has another name
TEXTS = {"client_id": ID_MAX, "app_instance_id": TEXT_MAX}
IDS = (*TEXTS, "user_id")  # a user_id of any length, or none: its rules take it out
REST = ("user_data", "ip_override", "user_agent", "non_personalized_ads", "validation_behavior")
PROTO_NAMES = {"validationBehavior": "validation_behavior"}  # Google's own tools write it so
SENDER_KEYS = frozenset((*OBJECTS, *IDS, *REST))
ALIKE = 0.8  # of a key: so much of it is a slip of the keyboard
SLIPS_MAX = 10  # unknown keys that are looked at for that: people do not misspell more
UNKEPT_KEYS = {"client_key": TEXT_MAX, "cookies": COOKIES_MAX}
"""What only says whose an event is, and must not be stored: a card's number, a visitor's cookies."""
BODY_KEYS = SENDER_KEYS | PROTO_NAMES.keys() | UNKEPT_KEYS.keys() | {"events", "timestamp_micros"}
SINGLE_KEYS = EVENT_KEYS | SENDER_KEYS | PROTO_NAMES.keys() | UNKEPT_KEYS.keys()
SPOOL_KEYS = SINGLE_KEYS | {"stream", "stamp", "sitting", "complete", "reason"}
MISPLACED = SINGLE_KEYS | {"events", "stream"}
"""What means something elsewhere: left out, an event would be another's, or another one."""
OWN_KEYS = frozenset((*UNKEPT_KEYS, "event_id", "session", "actor", "priority"))
RAW_KEYS = frozenset(("raw", "source", "reason", "stamp", "why"))
_UNKEPT = re.compile(rb"(client_key|cookies)['\"]?\s*[:=]")
_ESCAPE = b"\\u"  # JSON may write any letter as one
PRIORITIES = {priority.name.lower(): priority for priority in Priority}


class Shape(Enum):
    """What a source may hand in."""

    BODY = "a Measurement Protocol body"
    ANY = "an event, an array of events or a Measurement Protocol body"
    SPOOL = "an event, an array of events, a Measurement Protocol body or a line of an export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event as it was said, before what the device knows is added.

    ``stamp``: when it was written down, if that was before it reached the agent. ``sitting``: that
    of an event whose session is found when it leaves. ``complete``: it lay in a queue already, so
    nothing is added again. ``local_time``: ``time_us`` was read from this device's clock, and is
    corrected with it. ``client_key``: what a client id is to be made of; ``cookies``: the text of a
    Cookie header; neither may be stored. ``said``: the element itself without these two, for the
    dead letter that it may become. ``mended``: what it took to read it; whoever judges decides
    whether it may pass.
    """

    name: str
    params: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    sender: Sender = field(default_factory=Sender)
    event_id: str | None = None
    time_us: int | None = None
    session: Literal["start", "end"] | None = None
    actor: str | None = None
    priority: Priority | None = None
    stream: str | None = None
    stamp: Stamp | None = None
    sitting: Beginning | None = None
    complete: bool = False
    local_time: bool = True
    client_key: str | None = field(default=None, repr=False)
    cookies: str | None = field(default=None, repr=False)
    said: Mapping[str, Json] | None = field(default=None, compare=False, repr=False)
    mended: tuple[Mended, ...] = ()


@dataclass(frozen=True, slots=True)
class Misfit:
    """An element that is no event: why, and its own bytes for the dead letter.

    ``errors``: one at least. ``stamp``: when it was written, if it says so.
    """

    errors: tuple[InvalidEvent, ...]
    payload: bytes
    stamp: Stamp | None = None

    @property
    def error(self) -> InvalidEvent:
        """The first thing that is wrong."""
        return self.errors[0]


Element = Draft | Misfit | RawMessage  # a raw message is one that an export of dead letters held


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was found.

    ``whole``: accept all or nothing, as GA4 does with a body. ``within``: what the events stand in,
    "" for one alone.
    """

    elements: tuple[Element, ...]
    whole: bool
    within: Literal["events", "array", ""] = ""

    def place(self, index: int) -> str:
        """Where in the message an element stands, as paths of errors begin."""
        return {"events": f"events[{index}]", "array": f"[{index}]", "": ""}[self.within]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What the body around its events says for all of them."""

    sender: Sender
    time_us: int | None = None
    unkept: Mapping[str, str | None]
    mended: tuple[Mended, ...] = ()

    @classmethod
    def read(cls, value: dict[str, Any], path: str) -> "_Around":
        """Read it from a body, or from an event that stands alone. Raises InvalidEvent."""
        sender, mended = _sender(value, path)
        return cls(
            sender=sender,
            unkept={key: _text(value, path, key, most) for key, most in UNKEPT_KEYS.items()},
            mended=mended,
        )


def parse(payload: bytes, shape: Shape) -> Parsed:
    """Read a payload. Raises InvalidEvent when there is nothing in it to speak of singly."""
    deepest = SPOOL_DEPTH if shape is Shape.SPOOL else jsontext.MAX_DEPTH
    try:
        value = jsontext.loads(payload, max_depth=deepest)
    except NotJson as error:
        raise InvalidEvent("", told(error, payload)) from None
    if isinstance(value, dict) and ("events" in value or shape is Shape.BODY):
        return Parsed(_body(value), whole=True, within="events")
    keys = SPOOL_KEYS if shape is Shape.SPOOL else SINGLE_KEYS
    if isinstance(value, dict):
        return Parsed((_element(value, "", keys),), whole=False)
    if isinstance(value, list) and shape is not Shape.BODY:
        return Parsed(_array(value, keys), whole=False, within="array")
    raise InvalidEvent("", f"found {kind_of(value)}, expected {shape.value}")


def _array(values: list[Any], keys: frozenset[str]) -> tuple[Element, ...]:
    if not values:
        raise InvalidEvent("", "found an empty array, expected at least one event")
    if len(values) > ELEMENTS_MAX:
        found = f"found {len(values)} events, expected at most {ELEMENTS_MAX}"
        raise InvalidEvent("", found, "EXCEEDED_MAX_ENTITIES")
    return tuple(_element(value, f"[{i}]", keys) for i, value in enumerate(values))


def _body(body: dict[str, Any]) -> tuple[Element, ...]:
    mended = _without_unknown(body, "", (), BODY_KEYS, needed="events")
    events = body.get("events")
    if isinstance(events, dict) and events:
        events = [events]  # ga4mp's postponed_send() writes a single event so
    if not isinstance(events, list) or not events:
        raise InvalidEvent(
            "events",
            f"found {kind_of(events)}, expected 1 to {EVENTS_MAX} events",
            "VALUE_REQUIRED",
        )
    if len(events) > EVENTS_MAX:
        raise InvalidEvent(
            "events",
            f"found {len(events)} events, expected at most {EVENTS_MAX}",
            "EXCEEDED_MAX_ENTITIES",
        )
    time_us, of_time = _time(body, "", ())
    around = _Around.read(body, "")
    around = replace(around, time_us=time_us, mended=(*mended, *around.mended, *of_time))
    return tuple(
        _element(event, f"events[{i}]", EVENT_KEYS, around) for i, event in enumerate(events)
    )


def _element(
    value: Any,
    path: str,
    keys: frozenset[str],
    around: _Around | None = None,
) -> Element:
    """``around``: what the body around the event says, if there is one."""
    try:
        if isinstance(value, dict) and "raw" in value and keys is SPOOL_KEYS:
            return _raw(value, path)
        return draft(value, path, keys, around)
    except InvalidEvent as error:
        # A traceback would keep a frame for each misfit: a MiB of them was 900 MiB in memory.
        return Misfit((error.with_traceback(None),), jsontext.dumps(_kept(value)))


def draft(value: Any, path: str, keys: frozenset[str], around: _Around | None = None) -> Draft:
    """Read one event with no other than these keys; ``path`` is where it stands in its message.

    ``around``: what the body around it says. Raises InvalidEvent.
    """
    if not isinstance(value, dict):
        raise InvalidEvent(path, f"found {kind_of(value)}, expected an event")
    unknown = _without_unknown(value, path, EVENT, keys, needed="name")
    params, time_us, of_time = _params(value, path)
    around = around or _Around.read(value, path)
    mended = (*around.mended, *unknown, *of_time)
    complete = bool(_optional(value, path, "complete", bool, "true or false"))
    if complete and mended:
        raise InvalidEvent(path, mended[0].violation.description)  # no queue has held that
    return Draft(
        name=_name(value, path),
        params=params,
        sender=around.sender,
        event_id=_text(value, path, "event_id"),
        time_us=around.time_us if time_us is None else time_us,
        session=_choice(value, path, "session", ("start", "end")),
        actor=_choice(value, path, "actor", ("human", "machine")),
        priority=PRIORITIES.get(_choice(value, path, "priority", tuple(PRIORITIES)) or ""),
        stream=_text(value, path, "stream"),
        stamp=_stamp(value, path),
        sitting=_sitting(value, path),
        complete=complete,
        local_time=not complete,  # what was read from this device's clock is in the stamp by then
        client_key=around.unkept["client_key"],
        cookies=around.unkept["cookies"],
        said=_kept(value),
        mended=mended,
    )


def _params(
    event: dict[str, Any], path: str
) -> tuple[Mapping[str, Json], int | None, tuple[Mended, ...]]:
    """The params, and the event's time.

    GA4's reference lists the time among the params, its guide beside them; only there it counts.
    """
    params = _optional(event, path, "params", dict, "an object") or {}
    time_us, mended = _time(event, path, EVENT)
    if "timestamp_micros" in params:
        if time_us is None:
            time_us, mended = _time(params, _join(path, "params"), (*EVENT, "params"))
        params = {name: value for name, value in params.items() if name != "timestamp_micros"}
    return jsontext.frozen(params), time_us, mended


def without_unkept(payload: bytes) -> bytes:
    """A payload as a dead letter may hold it: without keys and cookies. It may be no JSON."""
    literally = _UNKEPT.search(payload)
    if not literally and _ESCAPE not in payload:
        return payload
    try:
        value = jsontext.loads(payload, max_depth=SPOOL_DEPTH)
    except NotJson:
        # Where in it a card's number ends nobody can say.
        return b"" if literally else payload
    kept: Any = [_kept(item) for item in value] if isinstance(value, list) else _kept(value)
    events = kept.get("events") if isinstance(kept, dict) else None
    if isinstance(events, list):
        kept = {**kept, "events": [_kept(item) for item in events]}
    elif events is not None:
        kept = {**kept, "events": _kept(events)}
    return payload if kept == value else jsontext.dumps(kept)


def _kept(value: Any) -> Any:
    """An element without what must not be stored."""
    if not isinstance(value, dict) or UNKEPT_KEYS.keys().isdisjoint(value):
        return value
    return {key: inner for key, inner in value.items() if key not in UNKEPT_KEYS}


def _raw(value: dict[str, Any], path: str) -> RawMessage:
    _known_keys(value, path, RAW_KEYS)
    source, reason = _text(value, path, "source"), _text(value, path, "reason")
    stamp, text = _stamp(value, path), _optional(value, path, "raw", str, "a text")
    why = _optional(value, path, "why", str, "a text") or ""
    if not source or not reason or stamp is None:
        raise InvalidEvent(path, f"found a raw message without {', '.join(sorted(RAW_KEYS))}")
    try:
        payload = base64.b64decode(text or "", validate=True)
    except ValueError:
        raise InvalidEvent(_join(path, "raw"), "found a text, expected base64") from None
    return RawMessage(source, reason, payload[:LINE_MAX], stamp, why[:WHY_MAX])


def _stamp(value: dict[str, Any], path: str, key: str = "stamp") -> Stamp | None:
    fields = _optional(value, path, key, dict, "an object")
    if fields is None:
        return None
    try:
        stamp = Stamp(**fields)
    except TypeError:
        stamp = None
    if stamp is None or not _sound(stamp):
        expected = "wall_us, boot_us, boot_id and trusted as an export writes them"
        raise InvalidEvent(_join(path, key), f"found another stamp, expected {expected}")
    return stamp


def _sitting(value: dict[str, Any], path: str) -> Beginning | None:
    fields = _optional(value, path, "sitting", dict, "an object")
    if fields is None:
        return None
    inner = _join(path, "sitting")
    client, start = _text(fields, inner, "client"), _stamp(fields, inner, "start")
    if client is None or start is None:
        raise InvalidEvent(inner, "found another sitting, expected client and start")
    return Beginning(client, start)


def _sound(stamp: Stamp) -> bool:
    # It came from JSON: its fields can be anything.
    wall_us, boot_us, boot_id, trusted = cast("tuple[object, ...]", astuple(stamp))
    times = all(type(time) is int and 0 <= time < TIME_MAX for time in (wall_us, boot_us))
    short = isinstance(boot_id, str) and len(boot_id) <= TEXT_MAX
    return times and short and isinstance(trusted, bool)


def _name(event: dict[str, Any], path: str) -> str:
    name = event.get("name")
    if isinstance(name, str) and name:
        return name
    code = "VALUE_REQUIRED" if name is None else "NAME_INVALID"
    found = f"found {kind_of(name)}, expected the event's name"
    raise InvalidEvent(_join(path, "name"), found, code)


def _sender(value: dict[str, Any], path: str) -> tuple[Sender, tuple[Mended, ...]]:
    ids = {key: _id(value, path, key) for key in IDS}
    objects = {key: reading.sender_object(value.get(key), key) for key in OBJECTS}
    proto = {key: value[said] for said, key in PROTO_NAMES.items() if said in value}
    rest = jsontext.frozen({**proto, **{key: value[key] for key in REST if key in value}})
    texts = {key: text for key, (text, _) in ids.items()}
    parts = {FIELDS.get(key, key): jsontext.frozen(part) for key, (part, _) in objects.items()}
    fields: dict[str, Any] = {**texts, **parts, "rest": rest}
    found = [*ids.values(), *objects.values()]
    return Sender(**fields), tuple(each for _, mended in found for each in mended)


def _id(value: dict[str, Any], path: str, key: str) -> tuple[str | None, tuple[Mended, ...]]:
    text, mended = reading.sender_id(value.get(key), key)
    if text is None and not mended:
        _text(value, path, key)  # says what else it is
    elif key in TEXTS:
        _text({key: text}, path, key, TEXTS[key])
    return text, mended


def _time(value: dict[str, Any], path: str, place: Place) -> tuple[int | None, tuple[Mended, ...]]:
    said = value.get("timestamp_micros")
    if said is None:
        return None, ()
    time_us, mended = reading.micros(said, (*place, "timestamp_micros"))
    if time_us is None:
        found = f"found {kind_of(said)}, expected microseconds since 1970"
        raise InvalidEvent(_join(path, "timestamp_micros"), found)
    return time_us, mended


def _text(value: dict[str, Any], path: str, key: str, most: int = TEXT_MAX) -> str | None:
    text = _optional(value, path, key, str, "a text")
    if text is not None and not 0 < len(text) <= most:
        raise InvalidEvent(
            _join(path, key),
            f"found a text of {len(text)} characters, expected 1 to {most}",
            "VALUE_REQUIRED" if not text else "VALUE_OUT_OF_BOUNDS",
        )
    return text  # type: ignore[no-any-return]  # checked to be a str


def _choice(value: dict[str, Any], path: str, key: str, choices: tuple[str, ...]) -> Any:
    if value.get(key) is None:
        return None
    if isinstance(value[key], str) and value[key] in choices:
        return value[key]
    expected = " or ".join(f'"{choice}"' for choice in choices)
    raise InvalidEvent(_join(path, key), f"found {kind_of(value[key])}, expected {expected}")


def _optional(value: dict[str, Any], path: str, key: str, kind: type, expected: str) -> Any:
    found = value.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise InvalidEvent(_join(path, key), f"found {kind_of(found)}, expected {expected}")


def _known_keys(value: dict[str, Any], path: str, known: frozenset[str]) -> None:
    for key in value:
        if key not in known:
            raise InvalidEvent(path, _unknown_key(key, known))


def _without_unknown(
    value: dict[str, Any], path: str, place: Place, known: frozenset[str], *, needed: str
) -> tuple[Mended, ...]:
    """What is to be said of keys that mean nothing; they are left out.

    One that means something elsewhere is refused, and one that looks like a known key misspelt:
    without ``prams`` an event would be another one. So is each where the key is not there without
    which it is nothing at all.
    """
    unknown = [key for key in value if key not in known]
    if not unknown:
        return ()
    lost = (
        unknown
        if needed not in value
        else [
            key
            for number, key in enumerate(unknown)
            if key in MISPLACED or (number < SLIPS_MAX and _misspelt(key, known))
        ]
    )
    if lost:
        raise InvalidEvent(path, _unknown_key(lost[0], known))
    found = _unknown_key(unknown[0], known, others=len(unknown) - 1)
    return (reading.without_keys(place, found, len(unknown)),)


def _misspelt(key: str, known: frozenset[str]) -> bool:
    return bool(difflib.get_close_matches(key[:40], known, n=1, cutoff=ALIKE))


def _unknown_key(key: str, known: frozenset[str], others: int = 0) -> str:
    expected = sorted(known)
    close = difflib.get_close_matches(key[:40], expected, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    more = f" and {others} more" if others else ""
    return f"found the unknown key {key[:40]!r}{more}, expected {', '.join(expected)}{hint}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
