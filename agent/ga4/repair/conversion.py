"""Values as others that mean the same; None where there is none."""

import math
import re
import unicodedata
from typing import Any

from agent.ga4.checks.times import TEXT, unit_of
from agent.ga4.checks.values import NUMBER, is_number, length
from agent.ga4.policy import Policy

EXACT_MAX = 2**53  # above it neighbouring whole numbers are the same float
DIGITS_MAX = 38  # of a number that becomes a text: as many as any database's widest integer has
WHOLE = re.compile(r"[+-]?[0-9]+")
HALVES = re.compile(r"[\ud800-\udfff]")
JOINER = "\N{ZERO WIDTH JOINER}"
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
BACK_MAX = 32  # code points that are given up for a whole character; longer ones are no writing


def cut(text: str, longest: int | None, policy: Policy) -> str:
    """As much of a free text as fits, in whole characters and without half surrogate pairs."""
    whole = HALVES.sub("", text)
    if longest is None or length(whole, policy) <= longest:
        return whole
    return whole[: _boundary(whole, _fitting(whole, longest, policy))]


def _fitting(text: str, longest: int, policy: Policy) -> int:
    """How many code points fit: each has a length of at least 1."""
    room = longest
    for index, character in enumerate(text[:longest]):
        room -= length(character, policy)
        if room < 0:
            return index
    return min(longest, len(text))


def _boundary(text: str, end: int) -> int:
    """The last place up to ``end`` that no character straddles, if one is near."""
    for place in range(end, max(end - BACK_MAX, 0), -1):
        if place == len(text) or not (_joins(text[place]) or text[place - 1] == JOINER):
            return place
    return end


def _joins(character: str) -> bool:
    """Whether it is written upon what stands before it: accents, joiners, skin tones."""
    return (
        unicodedata.category(character).startswith("M")
        or character == JOINER
        or character in SKIN_TONES
    )


def as_text(value: Any, *, exact: bool) -> str | None:
    """A number as the text that spells it. Booleans have none: their spelling is a guess.

    ``exact``: it names something, so a fraction will not do: 1.10 has lost a digit already.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if abs(value) < 10**DIGITS_MAX else None
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) <= EXACT_MAX:
        return str(int(value))
    return None if exact else repr(value)


def as_number(value: Any) -> float | None:
    """The number that a text spells."""
    if not isinstance(value, str) or len(value) > DIGITS_MAX or not NUMBER.fullmatch(value):
        return None
    number = int(value) if WHOLE.fullmatch(value) else float(value)
    return number if math.isfinite(number) else None


def as_micros(value: Any) -> int | None:
    """A time in another unit or notation as microseconds since 1970."""
    number = int(value) if isinstance(value, str) and TEXT.fullmatch(value) else value
    if not is_number(number) or (isinstance(number, float) and not math.isfinite(number)):
        return None
    unit = unit_of(number)
    if unit == "nanoseconds":
        return int(number) // 1000
    if unit is None:
        return int(number)
    # To the nearest: 1700000000.123456 s is a float a little below.
    return round(number * {"seconds": 1_000_000, "milliseconds": 1000}[unit])
