"""A file or a text to a Config, or to one ConfigError with every problem."""

import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cattrs.errors import BaseValidationError

from agent.config.problems import ConfigError, Problem, join
from agent.config.settings import Config
from agent.config.structure import converter, misfits
from agent.units import format_size

_TEXT_MAX: Final = 2**20


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError with every problem in it."""
    text = _read(path)
    if isinstance(text, Problem):
        raise ConfigError([text])
    return parse(text, name=str(path))


def expect_readable(path: Path) -> None:
    """Raises ConfigError if there is no file or it cannot be read, whatever is in it."""
    raw = _bytes(path)
    if isinstance(raw, Problem):
        raise ConfigError([raw])


def parse(text: str, *, name: str) -> Config:
    """Read a configuration from a text; `name` stands for the file in messages.

    Raises ConfigError with every problem in it.
    """
    table = _toml(text, name)
    if isinstance(table, Problem):
        raise ConfigError([table])
    result = _config(table, name)
    if isinstance(result, Config):
        return result
    raise ConfigError(result)


# The three below give problems back instead of raising them, because an exception raised while
# another is handled keeps that one, and with it the text of the file, in its context.


def _config(table: dict[str, Any], name: str) -> Config | list[Problem]:
    try:
        return converter().structure(table, Config)
    except BaseValidationError as error:
        return [
            Problem(
                file=name,
                key=join(place),
                found=misfit.found,
                expected=misfit.expected,
                hint=misfit.hint,
            )
            for place, misfit in misfits(error, ())
        ]


def _read(path: Path) -> str | Problem:
    raw = _bytes(path)
    if isinstance(raw, Problem):
        return raw
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _useless(path, "text that is not UTF-8", "save it anew as UTF-8")


def _bytes(path: Path) -> bytes | Problem:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind in (stat.S_IFREG, stat.S_IFDIR):  # a folder is refused at the opening
            with path.open("rb") as file:
                return file.read(_TEXT_MAX + 4)  # room to see that it is too long, with a mark
    except OSError as error:
        return _useless(path, *_unreadable(error))
    # To open a pipe is to wait for its writer, perhaps for ever.
    found = "a pipe" if kind == stat.S_IFIFO else "a device"
    return _useless(path, found, "name a file with --config")


def _useless(path: Path, found: str, hint: str) -> Problem:
    return Problem(
        file=str(path), key="", found=found, expected="a readable configuration file", hint=hint
    )


def _unreadable(error: OSError) -> tuple[str, str]:
    """Give what was found and what to do about it."""
    match error:
        case FileNotFoundError():
            return "no such file", "write one, or name another with --config"
        case PermissionError():
            return "no permission to read it", "run the command as root or as the service's user"
        case IsADirectoryError():
            return "a folder", "name a file in it with --config"
        case _:
            return f"the error {error.strerror!r}", "check the path and the disk"


def _toml(text: str, name: str) -> dict[str, Any] | Problem:
    flaw = _unfit(text)
    if not flaw:
        try:
            return tomllib.loads(text.removeprefix("﻿"))
        except tomllib.TOMLDecodeError as error:
            return _syntax_problem(str(error), name)
        except RecursionError:
            flaw = "values nested too deep"
        except ValueError:  # an integer of thousands of digits
            flaw = "a number of too many digits"
    return Problem(file=name, key="", found=flaw, expected="a TOML text of 1 MiB at most")


def _unfit(text: str) -> str:
    """Say what keeps a text from being read at all, or ""."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "text that is not Unicode"
    return f"more than {format_size(_TEXT_MAX)}" if size > _TEXT_MAX else ""


_POSITION: Final = re.compile(
    r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL
)
_SYNTAX: Final[Mapping[str, tuple[str, str]]] = {
    "Invalid value": ("a value that is not TOML", "put a text into quotation marks"),
    "Cannot overwrite": ("a key for the second time", "remove one of the two"),
    "Cannot declare": ("a table for the second time", "join the two"),
}


def _syntax_problem(message: str, name: str) -> Problem:
    """Use the parser's words, which repeat one character of the file at most."""
    match = _POSITION.fullmatch(message)
    what, line, column = match.groups() if match else (message, None, None)
    place = f"line {line} column {column}" if line else "end of the file"
    for start, (found, hint) in _SYNTAX.items():
        if what.startswith(start):
            return Problem(file=name, key=place, found=found, expected="valid TOML", hint=hint)
    if what.startswith("Expected "):
        wanted = what.removeprefix("Expected ")
        return Problem(file=name, key=place, found="something else", expected=wanted)
    found = what.removeprefix("Found ")
    return Problem(file=name, key=place, found=found[:1].lower() + found[1:], expected="valid TOML")
