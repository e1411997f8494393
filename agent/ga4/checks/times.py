"""Times: microseconds since 1970, at most 72 hours old, not in the future."""

import math
import re
from typing import Any

from agent.ga4.checks.values import Violations, broken, is_number, wrong_kind
from agent.ga4.policy import Conditions
from agent.ga4.rules.limits import HOUR_US
from agent.ga4.violation import Place, Rule

EXPECTED = "microseconds since 1970"
TEXT = re.compile(r"[0-9]{1,20}")  # proto JSON writes 64-bit integers as texts

# From the power of ten on that 1973 had in a unit to the one that 5138 has: no two overlap.
UNITS = ((10**8, "seconds"), (10**11, "milliseconds"), (10**14, None), (10**17, "nanoseconds"))
TOO_LARGE = 10**20


def time(value: Any, place: Place, conditions: Conditions) -> Violations:
    """A time of an event, a user property or a whole request."""
    spelled = isinstance(value, str) and conditions.policy.numeric_texts and TEXT.fullmatch(value)
    micros = int(value) if spelled else value
    if not is_number(micros) or (isinstance(micros, float) and not math.isfinite(micros)):
        yield wrong_kind(place, value, EXPECTED)
    elif -conditions.policy.past_us <= micros - conditions.now_us <= conditions.policy.future_us:
        yield from _whole(micros, place)
    else:
        yield from _outside(micros, place, conditions)


def unit_of(value: float) -> str | None:
    """Which unit a number of this size counts, if it is not microseconds; None if unknown."""
    found = None
    for start, unit in UNITS:
        if value >= start:
            found = unit
    return found if value < TOO_LARGE else None


def _whole(micros: float, place: Place) -> Violations:
    if micros != int(micros):
        yield broken(place, Rule.FORM, f"found a number with a fraction, expected {EXPECTED}")


def _outside(micros: float, place: Place, conditions: Conditions) -> Violations:
    unit = unit_of(micros)
    policy, now = conditions.policy, conditions.now_us
    if unit is not None:
        yield broken(place, Rule.TIME_UNIT, f"found {unit} since 1970, expected microseconds")
    elif micros < now:
        yield broken(
            place, Rule.TIME_PAST,
            f"found a time {_hours(now - micros)} ago, expected at most {_hours(policy.past_us)}",
        )  # fmt: skip
    else:
        yield broken(
            place, Rule.TIME_FUTURE,
            f"found a time {_hours(micros - now)} from now, expected one in the past",
        )  # fmt: skip


def _hours(micros: float) -> str:
    return f"{min(micros, TOO_LARGE) / HOUR_US:.4g} hours"  # a JSON number may exceed a float
