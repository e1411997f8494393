"""A publisher's time, in whatever form it says it, to microseconds since 1970. Pure.

Numbers, and texts that spell them, are seconds, milliseconds, microseconds or nanoseconds: the
coarsest of these units in which the time lies before 2100. From 2001 on that is never ambiguous.
Texts are ISO 8601 with a zone; without one a time would be hours off, and nobody would see it.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from agent.converters import exactly
from agent.event import Json
from agent.jsontext import kind_of

PLAUSIBLE_US: Final = 978_307_200_000_000  # 2001: no publisher's right clock shows less
LATEST_US: Final = 4_102_444_800_000_000  # 2100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND_US: Final = 1_000_000
_FINER: Final = 1000  # of each unit to the next
_UNITS: Final = 4
_ISO: Final = re.compile(
    r"([0-9]{4}-?[0-9]{2}-?[0-9]{2})[Tt ]([0-9]{2}:?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]{1,9})?)?)"
    r" ?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?",
    re.ASCII,
)
_EXPECTED: Final = "seconds, ms, us or ns since 1970, or ISO 8601 such as 2026-01-31T12:00:00Z"


class NoTime(ValueError):  # noqa: N818 - named after what was found
    """A value that tells no time; the message shows nothing of it."""

    def __init__(self, found: str, *, expected: str = _EXPECTED) -> None:
        super().__init__(f"found {found}, expected {expected}")


def read_time(value: Json, *, early: bool = False) -> int:
    """Microseconds since 1970. Raises NoTime.

    ``early``: times before 2001 count as well, as a clock shows them that was never set. Small
    numbers are seconds then.
    """
    number = exactly(value)
    if number is not None:
        time_us = _by_size(number)
    elif isinstance(value, str) and value:
        time_us = _iso(value.strip())
    else:
        raise NoTime(kind_of(value))
    if time_us < (1 if early else PLAUSIBLE_US):
        raise _too_early(early=early)
    if time_us >= LATEST_US:
        raise NoTime("a time after 2100", expected="an earlier one")
    return time_us


def _too_early(*, early: bool) -> NoTime:
    if early:
        return NoTime("no time after the start of 1970", expected="a later one")
    return NoTime(
        "a time before 2001, as of a clock that was never set",
        expected='a later one, or clock = "device" in the mapping if it is this device\'s clock',
    )


def _by_size(number: Decimal) -> int:
    time_us = number * _SECOND_US
    for _ in range(_UNITS - 1):
        if time_us < LATEST_US:
            break
        time_us /= _FINER
    if time_us >= LATEST_US:
        raise NoTime("a time after 2100", expected="an earlier one")
    return int(time_us.to_integral_value(ROUND_HALF_EVEN))


def _iso(text: str) -> int:
    found = _ISO.fullmatch(text)
    if found is None:
        raise NoTime("a text that is no time")
    day, time, zone = found.groups()
    if zone is None:
        raise NoTime("a time without its zone", expected="one with Z or an offset such as +02:00")
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{zone.upper()}")
    except ValueError:
        raise NoTime("a text that is no time") from None
    return (moment - _EPOCH) // _MICROSECOND
