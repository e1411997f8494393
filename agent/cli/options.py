"""Options that several commands share, and what they mean."""

import os
import sys
from pathlib import Path

import click

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: $GA4_AGENT_CONFIG, else /etc/ga4-agent/agent.toml.",
)
LIMIT = click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many. Default: 20; with --json, all."
)
ROWS_AS_JSON = click.option("--json", "as_json", is_flag=True, help="A JSON array for programs.")
OUTPUT = click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file to write to. Default: standard output.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def state_of(config: Path | None) -> Path:
    """The state directory that the configuration names. Ends the command with 2 if it is not there.

    A broken one is no obstacle: look at what the daemon does with it. But a file that was named
    and cannot be read must not lead to the agent of another one.
    """
    from agent.boot_config import VARIABLE, config_path, state_directory
    from agent.config import ConfigError, expect_readable

    path = config_path(config)
    try:
        expect_readable(path)
    except ConfigError as error:
        if config or os.environ.get(VARIABLE):
            click.echo(str(error), err=True)
            sys.exit(2)
        directory = state_directory(path, os.environ)
        _say_where(path, directory)
        return directory
    return state_directory(path, os.environ)


def _say_where(path: Path, directory: Path) -> None:
    """Where there is nothing, say why it was looked for there."""
    from agent.queue.event_queue import FILE_NAME

    try:
        found = (directory / FILE_NAME).exists()
    except PermissionError:
        found = False
    if not found:
        click.echo(f"no {path}; looking into {directory}", err=True)
