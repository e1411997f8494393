"""``ga4-agent validate``: what GA4 would not take of a request body, without sending it.

Or, with ``--live``, what its debug endpoint says of it, beside what the agent says.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from agent.cli.options import CONFIG

STANDARD_INPUT = Path("-")
LIVE_ONLY = {"config": "--config", "name": "--of", "endpoint": "--endpoint", "as_json": "--json"}


@click.command("validate")
@click.option(
    "--stream",
    type=click.Choice(["web", "app"]),
    help="The kind of stream it is for: some rules differ. Default: web.",
)
@click.option("--live", is_flag=True, help="Ask GA4's debug endpoint too. Nothing is counted.")
@CONFIG
@click.option(
    "--of", "name", metavar="NAME", help="With --live: as this stream. Default: the first one."
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="With --live: ask this one. Default: the stream's, such as "
    "https://www.google-analytics.com.",
)
@click.option("--json", "as_json", is_flag=True, help="With --live: JSON for programs.")
@click.argument("file", type=click.Path(path_type=Path), default=STANDARD_INPUT)
def command(stream: str | None, file: Path, *, live: bool, **asked: Any) -> None:
    """Check a Measurement Protocol request body.

    Prints what is wrong as validationMessages. FILE is JSON, without it or with - standard input is read. Nothing is sent, but with --live.

    With --live the body is sent to the debug endpoint of a stream of the configuration, which counts nothing, with validation_behavior ENFORCE_RECOMMENDATIONS. What it says is shown beside what the agent says. Nobody can tell from it whether the api_secret is right: GA4 does not look at it.

    Exit status: 0 nothing is wrong, 1 something is, 2 it cannot be read as JSON, GA4 could not be asked, wrong usage or configuration.
    """
    if live:
        if stream is not None:
            raise click.UsageError("cannot use --stream with --live: name a stream with --of")
        _ask(_read(file), **asked)
    for option in (LIVE_ONLY[key] for key, value in asked.items() if value):
        raise click.UsageError(f"cannot use {option} without --live")
    messages = _messages(_read(file), stream or "web")
    click.echo(json.dumps({"validationMessages": messages}, indent=2))
    sys.exit(1 if messages else 0)


def _ask(text: bytes, **asked: Any) -> NoReturn:
    from agent.cli import live

    live.show(text, **asked)


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        _end(f"cannot read {file}: {getattr(error, 'strerror', None) or error}")


def _messages(text: bytes, stream: Any) -> list[dict[str, str]]:
    from agent import jsontext
    from agent.ga4.debug import violations_in

    try:
        found = violations_in(text, stream=stream, now_us=time.time_ns() // 1000)
    except jsontext.NotJson as error:
        _end(f"cannot read the body: {error}")
    return [violation.document() for violation in found]


def _end(reason: str) -> NoReturn:
    click.echo(reason, err=True)
    sys.exit(2)
