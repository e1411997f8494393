"""``ga4-agent check``: whether the configuration is good."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG

if TYPE_CHECKING:
    from agent.config import Config


@click.command("check")
@CONFIG
def command(config: Path | None) -> None:
    """Check the configuration and the files that it names.

    Prints every problem, those of the configuration as FILE: key.path: found X, expected Y. What
    is only missing so far, such as a secret, is said and is no problem.

    Exit status: 0 it is good, 2 it is not.
    """
    from agent import wiring
    from agent.boot_config import config_path, credentials_folder
    from agent.config import ConfigError, load

    path = config_path(config)
    try:
        loaded = load(path)
    except ConfigError as error:
        _refuse([str(problem) for problem in error.problems])
    streams, problems = wiring.streams(loaded, os.environ, credentials_folder(path))
    problems += wiring.unreadable_files(loaded, os.environ)
    examples = [f"{path}: {problem}" for problem in _examples(loaded)]
    # What another user than root cannot read, the service perhaps can.
    unsure = problems if os.geteuid() != 0 else []
    if examples or len(problems) > len(unsure):
        _refuse([*examples, *problems])
    click.echo(f"{path} is good: {_summary(list(loaded.stream))}")
    for problem in unsure:
        click.echo(f"not checked as this user: {problem}")
    for stream in streams.values():
        if stream.lacks and not unsure:
            click.echo(f"not yet: stream {stream.name}: {stream.lacks}")


def _refuse(problems: list[str]) -> None:
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(2)


def _examples(config: "Config") -> Iterator[str]:
    """Ids that were copied from an example: GA4 takes events for them, and drops them."""
    from agent.event import EXAMPLE_ID

    for name, stream in config.stream.items():
        if stream.measurement_id and EXAMPLE_ID.fullmatch(stream.measurement_id):
            yield (
                f"stream.{name}.measurement_id: found the example's {stream.measurement_id}, "
                "expected yours (Admin > Data streams)"
            )


def _summary(streams: list[str]) -> str:
    if not streams:
        return "no stream yet, so events are kept until there is one"
    return f"streams {', '.join(streams)}; events go to {streams[0]} unless they say otherwise"
