"""What is wrong with a configuration, and how found values are named.

A value that may be secret or may name a person is never repeated in a message.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_SHOWN: Final = 60  # characters of a wrong text that a message repeats
_HUGE: Final = 10**20  # Python refuses to print integers of thousands of digits

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to correct: where it is, what was found there, and what would do."""

    file: str
    key: str
    """Path of the key, such as ``mqtt.subscriptions[1].topic``; "" for the file as a whole."""
    found: str
    expected: str
    hint: str = ""
    """What to do, where that is more than to write what was expected."""

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}: found {self.found}, expected {self.expected}{hint}"


class ConfigError(Exception):
    """A configuration that cannot be used; its text has one line for each of its problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class MisfitError(Exception):
    """A value that a reader refuses. Without `expected`, the reader's own expectation stands."""

    def __init__(self, found: str, *, expected: str = "", hint: str = "", at: Place = ()) -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.hint = hint
        self.at = at


def quote(text: str) -> str:
    """A text as a message shows it: shortened, and not at all if it may hold a secret."""
    if "@" in text or "?" in text:
        return "a text that may hold a secret (not shown)"  # a URL with a password or a query
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def describe(value: object) -> str:
    """Name a value as its author knows it."""
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= _HUGE:
            return "a huge number"
        case int() | float():
            return str(value)
        case str():
            return quote(value)
        case _:
            return kind_of(value)


def kind_of(value: object) -> str:
    """Name the kind of a value whose content must not be shown."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def bare(key: str) -> str:
    """A key as people write it in TOML."""
    return key if re.fullmatch("[A-Za-z0-9_-]{1,60}", key) else quote(key)


def join(place: Place) -> str:
    """Write a path of keys and indices as people read it: mqtt.subscriptions[1].topic."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{bare(step)}" for step in place)
    return "".join(steps).removeprefix(".")


def did_you_mean(word: str, words: Sequence[str], *, likeness: float) -> str:
    """Suggest the closest of ``words``, or nothing."""
    close = difflib.get_close_matches(word[:_SHOWN], words, n=1, cutoff=likeness)
    return f"did you mean {bare(close[0])}?" if close else ""
