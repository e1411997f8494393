"""Readers of single values: what is taken, how it is kept, and what to tell people else."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config.problems import MisfitError, describe, kind_of
from agent.units import UnitError, format_duration, format_size, parse_duration, parse_size

HIDDEN = "(not shown)"
AUTO = "auto"  # in the place of an id or a size: the agent makes one


@dataclass(frozen=True, slots=True)
class Reader:
    """How a value is read, and what to tell people whose value cannot be."""

    expected: str
    read: Callable[[Any], object]
    """Gives the value as it is kept, or raises MisfitError."""
    outer: bool = False
    """Only the outer shape was read; cattrs goes on inside."""
    write: Callable[[Any], object] = lambda value: value
    """Gives the value as a file would say it, without what must not be shown."""


def table(*, expected: str) -> Reader:
    """Read the outer shape of a table."""

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise MisfitError(kind_of(value))
        return value

    return Reader(expected, read, outer=True)


def array(*, expected: str, least: int = 0) -> Reader:
    """Read the outer shape of an array of at least ``least`` elements."""

    def read(value: object) -> object:
        if not isinstance(value, list) or len(value) < least:
            raise MisfitError(kind_of(value))
        return value

    return Reader(expected, read, outer=True)


def switch() -> Reader:
    """Read true or false."""

    def read(value: object) -> object:
        if not isinstance(value, bool):
            raise MisfitError(describe(value))
        return value

    return Reader("true or false", read)


def choice(*words: str) -> Reader:
    """Read one of these words."""

    def read(value: object) -> object:
        if value in words:
            return value
        shown = describe(value)
        hint = "put it into quotation marks" if shown in words else ""
        raise MisfitError(shown, hint=hint)

    return Reader(" or ".join(f'"{word}"' for word in words), read)


def number(low: int, high: int) -> Reader:
    """Read a whole number in these bounds."""

    def read(value: object) -> object:
        if type(value) is not int or not low <= value <= high:
            raise MisfitError(describe(value))
        return value

    return Reader(f"a whole number from {low} to {high}", read)


def _quantity(
    parser: Callable[[str | float], float],
    *,
    write: Callable[[Any], str],
    noun: str,
    low: str,
    high: str,
) -> Reader:
    least, most = parser(low), parser(high)

    def read(value: object) -> object:
        if not isinstance(value, str | int | float):
            raise MisfitError(describe(value))
        try:
            quantity = parser(value)
        except UnitError as error:
            raise MisfitError(describe(value), expected=error.expected) from None
        if not least <= quantity <= most:
            raise MisfitError(describe(value))
        return quantity

    return Reader(f"a {noun} from {low} to {high}", read, write=write)


def or_auto(reader: Reader) -> Reader:
    """Read ``"auto"``, which leaves the choice to the agent, or what fits."""
    return dataclasses.replace(
        reader,
        expected=f'"{AUTO}" or {reader.expected}',
        read=lambda value: value if value == AUTO else reader.read(value),
        write=lambda value: value if value == AUTO else reader.write(value),
    )


duration = functools.partial(_quantity, parse_duration, write=format_duration, noun="duration")
size = functools.partial(_quantity, parse_size, write=format_size, noun="size")


def text(
    *,
    expected: str,
    fits: Callable[[str], bool],
    show: Callable[[object], str] = describe,
    write: Callable[[str], str] = lambda text: text,
) -> Reader:
    """Read a text that `fits`; `show` decides how much of another one a message repeats."""

    def read(value: object) -> object:
        if not isinstance(value, str) or not fits(value):
            raise MisfitError(show(value))
        return value

    return Reader(expected, read, write=write)


def matching(pattern: str, *, expected: str) -> Reader:
    """Read a text that the whole ``pattern`` fits."""
    compiled = re.compile(pattern)
    return text(expected=expected, fits=lambda text: compiled.fullmatch(text) is not None)


def identifier(*, expected: str, longest: int) -> Reader:
    """Read an id of a device or a person: one line, and never repeated in a message."""
    return text(
        expected=expected,
        fits=lambda text: (
            text != HIDDEN  # what `config show` writes names nobody
            and 0 < len(text) <= longest
            and text.isprintable()
            and text == text.strip()
        ),
        show=kind_of_text,
        write=hidden,
    )


def id_template(*, expected: str) -> Reader:
    """Read an id, or a template that makes ids of messages: only the latter is ever written."""
    return dataclasses.replace(
        identifier(expected=expected, longest=256),
        write=lambda text: text if "{" in text else HIDDEN,
    )


def hidden(text: str) -> str:
    """Write that there is an id, and not which."""
    return text if text == AUTO else HIDDEN


def kind_of_text(value: object) -> str:
    """Name a value of which no content may be shown."""
    return "another text (not shown)" if isinstance(value, str) else kind_of(value)


def path(*, show: Callable[[object], str] = describe) -> Reader:
    """Read an absolute path: the service and the commands run in different folders."""

    def read(value: object) -> object:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise MisfitError(show(value))
        return Path(value)

    return Reader("an absolute path, one that starts with /", read, write=str)


def secret_path() -> Reader:
    """Read the path of a secret file; some put the secret itself there, so it is not repeated."""
    return path(show=kind_of_text)


def scalar(value: object) -> object:
    """Read a value that GA4 takes for a parameter."""
    if isinstance(value, float) and not math.isfinite(value):
        raise MisfitError(str(value))
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise MisfitError("a number of more than 64 bits")
    if not isinstance(value, str | int | float):
        raise MisfitError(kind_of(value))
    return value


def nested(value: object) -> object:
    """Read a value that GA4 takes, or tables as they are: of what they may be is a rule."""
    if isinstance(value, dict):
        return value
    return tuple(value) if isinstance(value, list) else scalar(value)


def as_written(value: object) -> object:
    """Write what `nested` has read."""
    return list(value) if isinstance(value, tuple) else value
