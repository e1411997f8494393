"""``ga4-agent validate``: what GA4 would not take of a request body, without sending it."""

import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

STANDARD_INPUT = Path("-")


@click.command("validate")
@click.option(
    "--stream",
    type=click.Choice(["web", "app"]),
    default="web",
    show_default=True,
    help="The kind of stream it is for: some rules differ.",
)
@click.argument("file", type=click.Path(path_type=Path), default=STANDARD_INPUT)
def command(stream: str, file: Path) -> None:
    """Check a Measurement Protocol request body.

    Prints what is wrong as validationMessages. FILE is JSON, without it or with - standard input is read. Nothing is sent.

    Exit status: 0 nothing is wrong, 1 something is, 2 it cannot be read as JSON.
    """
    messages = _messages(_read(file), stream)
    click.echo(json.dumps({"validationMessages": messages}, indent=2))
    sys.exit(1 if messages else 0)


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        _end(f"cannot read {file}: {getattr(error, 'strerror', None) or error}")


def _messages(text: bytes, stream: Any) -> list[dict[str, str]]:
    from agent import jsontext
    from agent.ga4.duplicates import duplicates
    from agent.ga4.validate import MOST, validate

    try:
        body = jsontext.loads(text)
    except jsontext.NotJson as error:
        _end(f"cannot read the body: {error}")
    now_us = time.time_ns() // 1000
    found = (*duplicates(text), *validate(body, stream=stream, now_us=now_us, size=len(text)))
    return [violation.document() for violation in found[:MOST]]


def _end(reason: str) -> NoReturn:
    click.echo(reason, err=True)
    sys.exit(2)
