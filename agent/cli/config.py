"""``ga4-agent config``: what is in effect."""

import json
import os
import sys
from pathlib import Path

import click

from agent.cli.options import CONFIG


@click.group("config")
def command() -> None:
    """Look at the configuration.

    Exit status: 0 shown, 2 there is none that could be used.
    """


@command.command("show")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def show(config: Path | None, *, as_json: bool) -> None:
    """Show every setting in effect, defaults included, as TOML; passwords and ids are left out.

    If the file is broken, this is the last configuration that worked, which the daemon runs on.

    Exit status: 0 shown, 2 there is none that could be used.
    """
    from agent.boot_config import choose, config_path
    from agent.config import ConfigError
    from agent.config.writing import document, text

    path = config_path(config)
    try:
        chosen = choose(path, environ=os.environ)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    for problem in chosen.problems:
        click.echo(problem, err=True)
    if chosen.problems:
        click.echo(f"{path} is broken: this is the last configuration that worked", err=True)
    shown = json.dumps(document(chosen.config), indent=2) + "\n" if as_json else text(chosen.config)
    click.echo(shown, nl=False)
