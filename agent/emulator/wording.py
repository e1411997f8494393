"""What GA4's validation endpoint says, in its own words where somebody recorded them. Pure.

Where no recording exists the words are those of the agent's rules, which name the very place.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agent.ga4.rules.fields import APP_INSTANCE_ID_LENGTH
from agent.ga4.violation import Code, Place, Rule, Violation

SHOWN = 100  # characters of a value that a message repeats
_NAME: Place = ("events", 0, "name")
_LETTER = re.compile(r"[A-Za-z]")
_NO_HEX = re.compile(r"[^0-9A-Fa-f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One finding of the validation endpoint; ``code`` is one of GA4's validation codes."""

    field_path: str | None
    description: str
    code: str

    def document(self) -> dict[str, str]:
        """Return the message as it stands in ``validationMessages``; no path, no key."""
        path = {} if self.field_path is None else {"fieldPath": self.field_path}
        return {**path, "description": self.description, "validationCode": self.code}


def required(field_path: str, description: str) -> Message:
    """Return what is said of something that is not there."""
    return Message(field_path=field_path, description=description, code=Code.VALUE_REQUIRED.value)


def unreadable(description: str) -> Message:
    """Return what is said of a body that is no JSON; nobody recorded what GA4 says to one."""
    return Message(field_path=None, description=description, code=Code.VALUE_INVALID.value)


def worded(violation: Violation, document: Any, *, now_us: int) -> Message:
    """Return a violation as GA4 says it. ``document``: the body in which it was found.

    ``now_us``: the server's clock, which one of the messages tells.
    """
    recorded = _RECORDED.get(violation.rule, _unrecorded)
    return recorded(violation, document, now_us) or Message(
        field_path=violation.field_path or None,
        description=violation.description,
        code=violation.code.value,
    )


def _unrecorded(_violation: Violation, _document: Any, _now_us: int) -> Message | None:
    return None


def _malformed_name(violation: Violation, document: Any, _: int) -> Message | None:
    if not _is_event_name(violation.place):
        return None
    name = _at(document, violation.place)
    why = "Names must start with an alphabetic character."
    if _LETTER.match(name):
        why = "Only alphanumeric characters and underscores are allowed."
    return Message(
        field_path="events",
        description=f"{_event(violation.place)} has invalid name [{_shown(name)}]. {why}",
        code=violation.code.value,
    )


def _reserved_name(violation: Violation, document: Any, _: int) -> Message | None:
    if not _is_event_name(violation.place):
        return None
    name = _at(document, violation.place)
    return Message(
        field_path=None,
        description=f"{_event(violation.place)} has name [{_shown(name)}] which is reserved.",
        code=violation.code.value,
    )


def _unconverted(violation: Violation, document: Any, _: int) -> Message | None:
    if violation.code is not Code.INTERNAL_ERROR:
        return None
    value = json.dumps(_shown(_at(document, violation.place)), ensure_ascii=False)
    return Message(
        field_path=None,
        description=f"Validation of item.{violation.place[-1]} should prevent conversion from "
        f"unsupported value [string_value: {value}]",
        code=violation.code.value,
    )


def _too_old(violation: Violation, _document: Any, now_us: int) -> Message:
    return Message(
        field_path=violation.field_path,
        description="Measurement timestamp_micros has timestamp too far in the past. Measurement "
        "protocol only supports timestamps [72h] into the past. The current time in UNIX "
        f"microseconds is [{now_us}].",
        code=violation.code.value,
    )


def _ill_formed(violation: Violation, document: Any, _: int) -> Message | None:
    """Of the length the rules speak in GA4's words already."""
    if violation.place != ("app_instance_id",):
        return None
    value = _at(document, violation.place)
    found = _NO_HEX.search(value)
    if found is None or len(value) != APP_INSTANCE_ID_LENGTH:
        return None
    return Message(
        field_path=violation.field_path,
        description=f"Measurement app_instance_id contains non hexadecimal character [{found[0]}].",
        code=violation.code.value,
    )


def _empty(violation: Violation, _document: Any, _now_us: int) -> Message | None:
    """An empty id is none: the protocol's own encoding does not tell them apart."""
    if violation.place == ("client_id",):
        return required("client_id", "Measurement requires a client_id.")
    if violation.place == ("app_instance_id",):
        return required("app_instance_id", "Measurement requires an app_instance_id.")
    return None


_RECORDED: Mapping[Rule, Callable[[Violation, Any, int], Message | None]] = MappingProxyType(
    {
        Rule.NAME_FORM: _malformed_name,
        Rule.NAME_RESERVED: _reserved_name,
        Rule.APP_ONLY: _reserved_name,
        Rule.NUMBER_EXPECTED: _unconverted,
        Rule.TIME_PAST: _too_old,
        Rule.FORM: _ill_formed,
        Rule.EMPTY: _empty,
    }
)


def _is_event_name(place: Place) -> bool:
    """Whether it is an event's own name, of a list or of the only one."""
    return place[:1] == ("events",) and place[-1] == "name" and len(place) <= len(_NAME)


def _event(place: Place) -> str:
    index = place[1] if isinstance(place[1], int) else 0
    return f"Event at index: [{index}]"


def _at(document: Any, place: Place) -> Any:
    for step in place:
        document = document[step]
    return document


def _shown(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}\N{HORIZONTAL ELLIPSIS}"
