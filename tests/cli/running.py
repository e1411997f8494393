"""Runs a command in this process and ends it as Python would: `sys.exit(TEXT)` says it on stderr.

click's own CliRunner says such a text on stdout.
"""

import sys
from dataclasses import dataclass

from click.testing import CliRunner

from agent.cli.main import main


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it said."""
        return self.stdout + self.stderr


def ga4_agent(*arguments: str, stdin: bytes | None = None) -> Ended:
    """Run ``ga4-agent`` with these arguments."""
    with CliRunner().isolation(input=stdin) as (out, err, _):
        code = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        return Ended(code, out.getvalue().decode(), err.getvalue().decode())


def _run(arguments: tuple[str, ...]) -> int:
    try:
        main.main(args=list(arguments), prog_name="ga4-agent")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    raise AssertionError("click ends a command with SystemExit")
