"""What a single value may be: kinds, lengths, numbers, forms."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from agent.ga4.currencies import CURRENCIES
from agent.ga4.policy import Policy
from agent.ga4.rules.limits import WHOLE_NUMBER_MAX
from agent.ga4.violation import Code, Place, Rule, Violation
from agent.jsontext import kind_of

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

Violations = Iterator[Violation]


def broken(
    place: Place, rule: Rule, description: str, code: Code = Code.VALUE_INVALID
) -> Violation:
    """A violation, of Google's most common code unless said."""
    return Violation(place=place, rule=rule, code=code, description=description)


def is_number(value: Any) -> bool:
    """Whether it is a JSON number; Python's booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_array(value: Any) -> bool:
    """Whether it is a JSON array."""
    return isinstance(value, list | tuple)


def wrong_kind(place: Place, value: Any, expected: str) -> Violation:
    """Another JSON kind than expected."""
    return broken(place, Rule.KIND, f"found {kind_of(value)}, expected {expected}")


def missing(place: Place, description: str) -> Violation:
    """Something required is not there."""
    return broken(place, Rule.MISSING, description, Code.VALUE_REQUIRED)


def empty(place: Place, value: Any) -> Violation:
    """Something required says nothing."""
    found = "an empty text" if isinstance(value, str) else "an empty array"
    return broken(
        place, Rule.EMPTY, f"found {found}, expected a value: it is required", Code.VALUE_REQUIRED
    )


def unknown_key(place: Place, known: Iterable[str]) -> Violation:
    """A key that GA4 has no use for."""
    expected = ", ".join(sorted(known))
    return broken(place, Rule.UNKNOWN_KEY, f"found an unknown key, expected one of {expected}")


def scalar(value: Any, place: Place, longest: int | None, policy: Policy) -> Violations:
    """A text of at most ``longest`` characters, a number, or true or false."""
    if isinstance(value, str):
        yield from text(value, place, longest, policy)
    elif is_number(value):
        yield from in_range(value, place)
    elif not isinstance(value, bool):
        yield wrong_kind(place, value, "a text, a number, or true or false")


def text(value: Any, place: Place, longest: int | None, policy: Policy) -> Violations:
    """A text of at most ``longest`` characters; a number or boolean in its place is named so."""
    if not isinstance(value, str):
        rule = Rule.TEXT_EXPECTED if isinstance(value, int | float) else Rule.KIND
        yield broken(place, rule, f"found {kind_of(value)}, expected a text")
    elif not _encodable(value):
        yield broken(place, Rule.UNICODE, "found half a surrogate pair, expected Unicode text")
    elif longest is not None and length(value, policy) > longest:
        yield broken(
            place,
            Rule.TEXT_LENGTH,
            f"found a text of {length(value, policy)} characters, expected at most {longest}",
            Code.VALUE_OUT_OF_BOUNDS,
        )


def length(value: str, policy: Policy) -> int:
    """Characters, counted as the policy says."""
    if policy.counting == "characters":
        return len(value)
    return len(quote(value, safe="", errors="replace"))


def number(value: Any, place: Place, policy: Policy, code: Code = Code.VALUE_INVALID) -> Violations:
    """A number, or a text that spells one if the policy takes it.

    ``code``: what the server answers to a text that it cannot convert.
    """
    if is_number(value):
        yield from in_range(value, place)
    elif isinstance(value, str) and policy.numeric_texts and NUMBER.fullmatch(value):
        yield from in_range(float(value), place)
    elif isinstance(value, str):
        found = "a text that is no number" if value else "an empty text"
        yield broken(place, Rule.NUMBER_EXPECTED, f"found {found}, expected a number", code)
    else:
        rule = Rule.NUMBER_EXPECTED if isinstance(value, bool) else Rule.KIND
        yield broken(place, rule, f"found {kind_of(value)}, expected a number")


def in_range(value: float, place: Place) -> Violations:
    """A number that GA4 can hold: JSON's numbers have no bounds."""
    if isinstance(value, float):
        found = None if math.isfinite(value) else "no finite number"
    else:
        found = "a whole number of over 64 bits" if abs(value) > WHOLE_NUMBER_MAX else None
    if found is not None:
        yield broken(
            place, Rule.NUMBER_RANGE, f"found {found}, expected a smaller one",
            Code.VALUE_OUT_OF_BOUNDS,
        )  # fmt: skip


def currency(value: Any, place: Place) -> Violations:
    """A code of ISO 4217."""
    if isinstance(value, str) and value in CURRENCIES:
        return
    found = kind_of(value)
    if isinstance(value, str) and value.upper() in CURRENCIES:
        found = "a currency in lower case"
    elif isinstance(value, str) and value:
        found = "a text that is no currency"
    rule = Rule.CURRENCY if isinstance(value, str) else Rule.KIND
    yield broken(place, rule, f"found {found}, expected a code of ISO 4217 in capitals, like EUR")


def choice(value: Any, place: Place, choices: tuple[str, ...]) -> Violations:
    """One of GA4's words."""
    if isinstance(value, str) and value in choices:
        return
    expected = " or ".join(choices)
    if not isinstance(value, str):
        yield wrong_kind(place, value, expected)
        return
    found = "it in lower case" if value.upper() in choices else "another text"
    yield broken(place, Rule.CHOICE, f"found {found}, expected {expected}")


def formed(value: Any, place: Place, form: re.Pattern[str], expected: str) -> Violations:
    """A text of this form."""
    if not isinstance(value, str):
        yield wrong_kind(place, value, expected)
    elif not _encodable(value):
        yield broken(place, Rule.UNICODE, "found half a surrogate pair, expected Unicode text")
    elif not form.fullmatch(value):
        yield broken(place, Rule.FORM, f"found another text, expected {expected}")


def _encodable(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
