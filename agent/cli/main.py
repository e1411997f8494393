"""``ga4-agent``: the commands, imported when they are called.

Exit statuses: 0 done; 1 not done, for the reason that was printed; 2 wrong usage or wrong
configuration; 130 ended by Ctrl-C.
"""

import importlib
import sys
from typing import Any

import click

from agent import __version__
from agent.cli import output
from agent.cli.plainly import BY_HAND

COMMANDS = {
    "run": "agent.cli.run",
    "check": "agent.cli.check",
    "send": "agent.cli.send",
    "status": "agent.cli.status",
    "doctor": "agent.cli.doctor",
    "ledger": "agent.cli.ledger",
    "map": "agent.cli.map",
    "validate": "agent.cli.validate",
    "tail": "agent.cli.tail",
    "queue": "agent.cli.queue",
    "dead": "agent.cli.dead",
    "flush": "agent.cli.delivery:flush",
    "drain": "agent.cli.delivery:drain",
    "pause": "agent.cli.delivery:pause",
    "resume": "agent.cli.delivery:resume",
    "config": "agent.cli.config",
    "secret": "agent.cli.secret",
    "identity": "agent.cli.identity",
    "emulator": "agent.cli.emulator",
    "demo": "agent.cli.demo",
}


class LazyCommands(click.Group):
    """Imports a command's module when it is asked for: `status` must be quick on a small board."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Everything, from the words of the command line to the exit status."""
        with output.looked_after():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """The command; ended by Ctrl-C it has an exit status of its own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nended by Ctrl-C", err=True)
            sys.exit(BY_HAND)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order of a day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command, from its module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute or "command")
        return command


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ga4-agent")
def main() -> None:
    """Take events on this device, keep them on its disk, deliver them to Google Analytics 4.

    Exit status: 0 done, 1 not done (the reason is printed), 2 wrong usage or configuration,
    130 ended by Ctrl-C.
    """
