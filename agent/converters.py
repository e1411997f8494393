"""What the converters of a template make of a value: ``{json.cents:div100}``. Pure, no I/O.

Nothing is rounded in silence: what a converter would have to round or to guess it refuses.
"""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from types import MappingProxyType
from typing import Any, Final

from agent import jsontext

Json = Any

_DIGITS_MAX: Final = 40  # of a text that spells a number: more than 64 bits ever need
_SPELLED: Final = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
_WHOLE: Final = re.compile("[+-]?[0-9]+", re.ASCII)
_EXACT: Final = Context(prec=400)  # as many digits as a JSON number of 64 bits ever has
_INT_MAX: Final = 2**63
_TRUTHS: Final[Mapping[str, bool]] = MappingProxyType(
    {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
)
_POINT: Final = "a number such as 2.50, with a point and without a currency's sign"


class Unfit(ValueError):  # noqa: N818 - named after what was found
    """A value that cannot be converted; the message shows nothing of it."""

    def __init__(self, found: str, *, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found = found
        self.expected = expected


def exactly(value: Json) -> Decimal | None:
    """A number, or a text that spells one, without any loss; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else None
    text = value.strip() if isinstance(value, str) else ""
    spelled = len(text) <= _DIGITS_MAX and _SPELLED.fullmatch(text)
    return Decimal(text) if spelled else None


def amount(value: Json) -> Json:
    """A number as it is; a text that spells one as that number. Raises Unfit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    number = exactly(value)
    if number is None:
        raise Unfit(_kind(value), expected=_POINT)
    return int(number) if _WHOLE.fullmatch(value.strip()) else _float(number)


def _to_int(value: Json) -> int:
    number = exactly(value)
    expected = "a whole number"
    if number is None:
        raise Unfit(_kind(value), expected=expected)
    if abs(number) >= _INT_MAX:
        raise Unfit("a number of over 64 bits", expected=expected)
    if number != number.to_integral_value():
        raise Unfit("a number with a fraction", expected=expected)
    return int(number)


def _to_float(value: Json) -> float:
    number = exactly(value)
    if number is None:
        raise Unfit(_kind(value), expected=_POINT)
    return _float(number)


def _float(number: Decimal) -> float:
    converted = float(number)
    if math.isfinite(converted):
        return converted
    raise Unfit("a number that is too large", expected="a smaller one")


def _to_str(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return jsontext.dumps(value).decode()
    raise Unfit(_kind(value), expected="a text, a number, true or false")


def _to_bool(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    number = exactly(value)
    if number in (0, 1):
        return bool(number)
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUTHS:
        return _TRUTHS[word]
    found = "another text" if word else jsontext.kind_of(value)
    raise Unfit(found, expected="true or false, 1 or 0, on or off, yes or no")


def _to_main_units(value: Json) -> int | float:
    """Cents to main units; a whole result has no fraction, as JSON writes it."""
    number = exactly(value)
    if number is None:
        raise Unfit(_kind(value), expected="a number of hundredths, such as cents")
    units = number.scaleb(-2, _EXACT)
    if units == units.to_integral_value() and abs(units) < _INT_MAX:
        return int(units)
    return _float(units)


def _kind(value: Json) -> str:
    """What was found where a number should be."""
    text = isinstance(value, str) and value
    return "a text that is no number" if text else jsontext.kind_of(value)


CONVERTERS: Final[Mapping[str, Callable[[Json], Json]]] = MappingProxyType(
    {
        "int": _to_int,
        "float": _to_float,
        "str": _to_str,
        "bool": _to_bool,
        "div100": _to_main_units,
    }
)
"""By the name behind the colon. Each raises Unfit for what it cannot convert."""
