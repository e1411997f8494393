"""Options that several commands share."""

from pathlib import Path

import click

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: $GA4_AGENT_CONFIG, else /etc/ga4-agent/agent.toml.",
)
