"""What all sources have in common: a loop that may be unavailable for a while."""

import threading
from typing import Protocol

from agent.progress import Progress


class SourceUnavailable(Exception):  # noqa: N818 - a state rather than an error
    """The source cannot work now, for a reason that may go away; the rest goes on."""


class Source(Protocol):
    """Takes events from outside and hands them to the door.

    ``problem``: why nothing comes in, for people; None when all is well.
    """

    @property
    def problem(self) -> str | None:
        """Why nothing comes in."""

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Work until ``stop`` is set. Raises SourceUnavailable."""
