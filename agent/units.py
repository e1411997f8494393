"""Durations and sizes as people write them: ``2 s``, ``7 days``, ``64 MiB``.

A number without a unit is refused, because whoever reads it next would have to guess; so is a
unit that two people read differently, such as ``m`` or ``KB``.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

_SECONDS: Final[Mapping[str, Fraction]] = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "sec": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "hour": Fraction(3600),
    "hours": Fraction(3600),
    "d": Fraction(86_400),
    "day": Fraction(86_400),
    "days": Fraction(86_400),
}
_BYTES: Final[Mapping[str, Fraction]] = {
    "B": Fraction(1),
    "kB": Fraction(1000),
    "KiB": Fraction(2**10),
    "MB": Fraction(1000**2),
    "MiB": Fraction(2**20),
    "GB": Fraction(1000**3),
    "GiB": Fraction(2**30),
}
# Fifteen digits keep every result exact in a float, and a hostile text cannot cost time.
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")
_BARE: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_SHOWN: Final = 60  # characters of a wrong text that a message repeats
_SHORT: Final = 1000  # a count below this reads better than a larger unit with decimals
_HUGE: Final = 10**20  # Python refuses to print integers of thousands of digits


class UnitError(ValueError):
    """A text that is no duration or size; ``found`` and ``expected`` make up the message."""

    def __init__(self, *, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found = found
        self.expected = expected


def parse_duration(value: str | float) -> float:
    """Seconds in a text such as ``"2 s"``, ``"500 ms"``, ``"30 min"``, ``"2 h"``, ``"7 days"``.

    Raises UnitError for anything else, numbers without a unit among it.
    """
    return float(_parse(value, units=_SECONDS, noun="duration", unit="s"))


def parse_size(value: str | float) -> int:
    """Bytes in a text such as ``"64 MiB"`` or ``"130 kB"``, rounded to whole bytes.

    Raises UnitError for anything else, numbers without a unit among it.
    """
    return round(_parse(value, units=_BYTES, noun="size", unit="MiB"))


def counted(number: int, noun: str) -> str:
    """How many there are, for people: ``1 event``, ``1,200 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Finite seconds for people: exact where that is short (``90 min``), else to two decimals."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds == 0:
        return "0 s"
    units = {unit: _SECONDS[unit] for unit in ("d", "h", "min", "s", "ms")}
    text = _whole(seconds, units=units) or _decimal(seconds, units=units)
    number, unit = text.split(" ")
    if unit != "d":
        return text
    return "1 day" if number == "1" else f"{number} days"


def format_size(size: int) -> str:
    """Bytes for people: exact where that is short (``64 MiB``), else to two decimals."""
    if size < 0:
        return f"-{format_size(-size)}"
    binary = {unit: _BYTES[unit] for unit in ("GiB", "MiB", "KiB", "B")}
    decimal = {unit: _BYTES[unit] for unit in ("GB", "MB", "kB")}
    return _whole(size, units=binary) or _whole(size, units=decimal) or _decimal(size, units=binary)


def _parse(value: str | float, *, units: Mapping[str, Fraction], noun: str, unit: str) -> Fraction:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value.strip())):
        number, found_unit = match.groups()
        if found_unit in units:
            return Fraction(number) * units[found_unit]
    raise UnitError(
        found=_describe(value), expected=_expected(value, units=units, noun=noun, unit=unit)
    )


def _expected(value: str | float, *, units: Mapping[str, Fraction], noun: str, unit: str) -> str:
    bare = value.strip() if isinstance(value, str) else _describe(value)
    if _BARE.fullmatch(bare):
        return f'a {noun} with a unit such as "{bare} {unit}"'
    return f'a {noun} such as "2 {unit}", with one of the units {", ".join(units)}'


def _describe(value: str | float) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge number"
    return str(value).lower()


def _whole(value: float, *, units: Mapping[str, Fraction]) -> str:
    """Use the largest unit that leaves no rest; "" where that gets long."""
    exact = Fraction(value).limit_denominator(1000)  # 0.1 s is 100 ms, not 0.1000000000000000055
    if float(exact) != value:
        return ""
    for unit, factor in units.items():
        count = exact / factor
        if count.denominator == 1 and 0 < count < _SHORT:
            return f"{count} {unit}"
    return ""


def _decimal(value: float, *, units: Mapping[str, Fraction]) -> str:
    unit = next((u for u, factor in units.items() if value >= factor), list(units)[-1])
    number = f"{value / float(units[unit]):.2f}".rstrip("0").rstrip(".")
    return f"{number} {unit}"
