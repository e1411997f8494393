"""``ga4-agent run``: the daemon in the foreground."""

import logging
import os
import sys
from pathlib import Path

import click

from agent.cli.options import CONFIG

JOURNAL_LEVELS = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class JournalFormatter(logging.Formatter):
    """Puts the priority before each line, as systemd reads it (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """Every line, for the journal splits records at line ends."""
        text = super().format(record)
        level = next((n for at_least, n in JOURNAL_LEVELS if record.levelno >= at_least), 7)
        return "\n".join(f"<{level}>{line}" for line in text.splitlines())


@click.command("run")
@CONFIG
def command(config: Path | None) -> None:
    """Run the daemon in the foreground.

    It logs on stderr. SIGTERM ends it cleanly; SIGHUP reads the configuration again.

    Exit status: 0 it was ended, 1 it could not start or met a bug, 2 the configuration is wrong.
    """
    from agent.boot_config import config_path
    from agent.daemon import run

    log_to_stderr(logging.INFO)
    sys.exit(run(config_path(config)))


def log_to_stderr(level: int) -> None:
    """For people in a terminal with the time, for the journal with the priority."""
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
