"""``ga4-agent check``: whether the configuration is good."""

import sys
from pathlib import Path

import click

from agent.cli.options import CONFIG


@click.command("check")
@CONFIG
def command(config: Path | None) -> None:
    """Check the configuration; print every problem as FILE: key.path: found X, expected Y.

    Exit status: 0 it is good, 2 it is not.
    """
    from agent.boot_config import config_path
    from agent.config import ConfigError, load

    path = config_path(config)
    try:
        loaded = load(path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        sys.exit(2)
    click.echo(f"{path} is good: {_summary(list(loaded.stream))}")


def _summary(streams: list[str]) -> str:
    if not streams:
        return "no stream yet, so events are kept until there is one"
    return f"streams {', '.join(streams)}; events go to {streams[0]} unless they say otherwise"
