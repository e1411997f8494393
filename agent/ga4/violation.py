"""What a rule says of a place in a body: for people, for programs, and in Google's codes."""

import json
from dataclasses import dataclass
from enum import Enum, StrEnum

KEY_SHOWN = 40  # characters of a key: as many as a name that GA4 takes can have
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")

Place = tuple[str | int, ...]  # keys and indexes from the body inwards


class Code(StrEnum):
    """Google's codes (VAL, "Validation code")."""

    VALUE_INVALID = "VALUE_INVALID"
    VALUE_REQUIRED = "VALUE_REQUIRED"
    NAME_INVALID = "NAME_INVALID"
    NAME_RESERVED = "NAME_RESERVED"
    VALUE_OUT_OF_BOUNDS = "VALUE_OUT_OF_BOUNDS"
    EXCEEDED_MAX_ENTITIES = "EXCEEDED_MAX_ENTITIES"
    NAME_DUPLICATED = "NAME_DUPLICATED"
    INTERNAL_ERROR = "INTERNAL_ERROR"  # not in VAL; recorded from the server


class Rule(Enum):
    """What kind of rule was broken: whoever repairs chooses by this."""

    BODY_SIZE = "body size"  # the body is too large
    UNWRITABLE = "unwritable"  # it cannot be written as JSON
    KIND = "kind"  # another JSON kind than expected
    MISSING = "missing"  # something required is not there; the place is where it belongs
    EMPTY = "empty"  # something required is there and empty
    UNKNOWN_KEY = "unknown key"
    NAME_FORM = "name form"  # other than letters, digits and _ after a letter
    NAME_LENGTH = "name length"
    NAME_RESERVED = "name reserved"
    APP_ONLY = "app only"  # GA4 takes it on app streams only
    WEB_ONLY = "web only"
    TOO_MANY = "too many"  # the place is the container
    TEXT_LENGTH = "text length"
    TEXT_EXPECTED = "text expected"  # a number or a boolean where GA4 wants a text
    NUMBER_EXPECTED = "number expected"  # something else where GA4 wants a number
    NUMBER_RANGE = "number range"
    UNICODE = "unicode"  # half a surrogate pair
    CHOICE = "choice"  # none of the words that GA4 knows
    FORM = "form"  # a text of another form than documented
    CURRENCY = "currency"  # no code of ISO 4217
    TIME_UNIT = "time unit"  # seconds, milliseconds or nanoseconds
    TIME_PAST = "time past"
    TIME_FUTURE = "time future"
    TIME_PLACE = "time place"  # inside params
    DUPLICATE = "duplicate"  # the same key twice in an object


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that a body breaks.

    ``place``: where, as keys and indexes; () is the body itself. ``description``: for people:
    found what, expected what; kinds, lengths and limits, never a value.
    """

    place: Place
    rule: Rule
    code: Code
    description: str

    @property
    def field_path(self) -> str:
        """The place as text, like ``events[0].params.items[2].price``."""
        return path(self.place)

    def document(self) -> dict[str, str]:
        """The violation as it stands in ``validationMessages``."""
        return {
            "fieldPath": self.field_path,
            "description": self.description,
            "validationCode": self.code.value,
        }


def path(place: Place) -> str:
    """A place as text. Long keys are cut, strange ones quoted."""
    return "".join(_step(part) for part in place).removeprefix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    if part and PLAIN.issuperset(part[: KEY_SHOWN + 1]) and len(part) <= KEY_SHOWN:
        return f".{part}"
    shown = part if len(part) <= KEY_SHOWN else part[:KEY_SHOWN] + "\N{HORIZONTAL ELLIPSIS}"
    return f"[{json.dumps(shown, ensure_ascii=not _clean(shown))}]"


def _clean(text: str) -> bool:
    # What cannot be shown is escaped: a key must not steer a terminal, nor break an encoder.
    return text.isprintable()
