"""What has to be mended before there is an event: the same decisions as for one that is there.

An event's id is a text and its time whole microseconds, so another form of them would never come
as far as its rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agent.ga4.checks.times import TEXT, unit_of
from agent.ga4.checks.values import broken, is_number, wrong_kind
from agent.ga4.repair.conversion import EXACT_MAX, as_micros, as_text
from agent.ga4.repair.kind import Kind
from agent.ga4.rules import fields
from agent.ga4.violation import Place, Rule, Violation

EARLIEST = 10**8  # below it no unit makes a time of a fraction: seconds since a boot, say
LARGEST = 10**20  # of whatever unit, it is no time
OBJECT_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "user_properties": Kind.USER_PROPERTY_DROPPED,
        "consent": Kind.CONSENT_DENIED,
        "device": Kind.DEVICE_DROPPED,
        "user_location": Kind.LOCATION_DROPPED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A rule that was broken in what an event was read from, and what was done about it.

    ``number``: how often it was done.
    """

    violation: Violation
    kind: Kind
    number: int = 1


def micros(said: Any, place: Place) -> tuple[int | None, tuple[Mended, ...]]:
    """A time in microseconds since 1970; None if it tells none.

    Whole numbers stay as they are as long as they are exact: a clock that stands in 1970 shows
    microseconds that look like seconds, and only the door knows what this device's clock shows.
    """
    number = int(said) if isinstance(said, str) and TEXT.fullmatch(said) else said
    if not is_number(number) or not 0 < number < LARGEST:
        return None, ()
    whole = number == int(number)
    if whole and number < EXACT_MAX:
        return int(number), ()
    time_us, unit = as_micros(number), unit_of(number)
    if time_us is None or time_us >= EXACT_MAX or (number < EARLIEST):
        return None, ()
    if unit is not None:
        found = f"found {unit} since 1970, expected microseconds"
        told = Mended(violation=broken(place, Rule.TIME_UNIT, found), kind=Kind.TIME_UNIT)
    elif whole:
        return None, ()
    else:
        found = "found a number with a fraction, expected microseconds since 1970"
        told = Mended(violation=broken(place, Rule.FORM, found), kind=Kind.CONVERTED)
    return time_us, (told,)


def sender_id(said: Any, key: str) -> tuple[str | None, tuple[Mended, ...]]:
    """An id as a text. A user_id that is none is left out; None beside nothing mended is no id."""
    if said is None or isinstance(said, str):
        return said, ()
    text = as_text(said, exact=True)
    if text is not None:
        expected = broken((key,), Rule.TEXT_EXPECTED, "found a number, expected a text")
        return text, (Mended(violation=expected, kind=Kind.CONVERTED),)
    if key == "user_id":
        dropped = wrong_kind((key,), said, "a text")
        return None, (Mended(violation=dropped, kind=Kind.IDENTIFIER_DROPPED),)
    return None, ()


def sender_object(said: Any, key: str) -> tuple[Mapping[str, Any], tuple[Mended, ...]]:
    """A part of the sender, which is an object, or nothing. An unreadable consent is a refusal."""
    if said is None or isinstance(said, Mapping):
        return said or {}, ()
    mended = Mended(violation=wrong_kind((key,), said, "an object"), kind=OBJECT_KINDS[key])
    kept = dict.fromkeys(sorted(fields.CONSENT_KEYS), "DENIED") if key == "consent" else {}
    return kept, (mended,)


def without_keys(place: Place, description: str, number: int) -> Mended:
    """Keys of the object at ``place`` that mean nothing, left out."""
    return Mended(
        violation=broken(place, Rule.UNKNOWN_KEY, description),
        kind=Kind.KEY_DROPPED,
        number=number,
    )
