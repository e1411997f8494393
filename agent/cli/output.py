"""Standard output as it is in the field: closed, full, or without the letter that is to be shown."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click


class Remembering(io.FileIO):
    """A file that knows why it could not be written: an OSError does not say what it is about."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write some of it."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def looked_after() -> Iterator[None]:
    """Around a command: end it with 1 and the reason if its output could not be written."""
    _prepare()
    try:
        yield
    except (OSError, SystemExit):
        failure = _failure()
        # Who reads our output may have had enough of it: nothing to say about that.
        if failure is None or isinstance(failure, BrokenPipeError):
            raise
        sys.exit(f"cannot write the output: {failure.strerror}")


def say_if_possible(text: str) -> None:
    """Say what stays true when nobody can hear it."""
    try:
        click.echo(text)
    except OSError:
        _failure()
        if file := _file():
            file.failure = None


def _prepare() -> None:
    """Have failures remembered, and letters that cannot be shown replaced."""
    if sys.stdout is None:  # as Python has it after >&-
        # What is opened next must not become the output: this takes its number.
        number = os.open(os.devnull, os.O_RDONLY)
        encoding, by_line = "utf-8", False
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        number = sys.stdout.fileno()
        encoding, by_line = sys.stdout.encoding, sys.stdout.line_buffering
    else:
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(Remembering(number, "w", closefd=False)),
        encoding=encoding,
        errors="replace",
        line_buffering=by_line,
    )


def _file() -> Remembering | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Remembering) else None


def _failure() -> OSError | None:
    """Why what was said is not out, if so. The rest goes nowhere: Python would try it again."""
    with suppress(OSError):
        sys.stdout.flush()
    file = _file()
    if file is None or file.failure is None:
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
    return file.failure
