"""``ga4-agent demo``: the whole way of an event, an outage and a kill -9, on this machine."""

import sys
import tempfile
from pathlib import Path

import click


@click.command("demo")
def command() -> None:
    """Show the agent at work, with no configuration, broker or account.

    Starts a local GA4, a broker and the agent; sends events by MQTT and HTTP; takes GA4 away;
    kills the agent; brings both back; and counts. Exit status: 0 the books balance, 1 not.
    """
    from agent.demo.story import Story

    with tempfile.TemporaryDirectory(prefix="ga4-agent-demo-") as directory:
        balanced = Story(directory=Path(directory), say=click.echo).tell()
    sys.exit(0 if balanced else 1)
