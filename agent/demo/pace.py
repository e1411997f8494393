"""How long the story takes: for a person who watches, or as fast as it goes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

Pause = Callable[[float], None]  # waits so many seconds; raises Interrupted


class Interrupted(Exception):  # noqa: N818 - a person's wish rather than an error
    """Whoever watches has seen enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The figures that make the story slow enough to follow; 0 is as fast as it goes.

    ``calm`` and ``busy``: events a second of each program, before the outage and during it.
    ``reading``: seconds for a sentence to be read. ``dead``: seconds that the agent stays killed.
    ``answer``: seconds that GA4 takes for an answer when it is back.
    """

    calm: float = 0.0
    busy: float = 0.0
    reading: float = 0.0
    dead: float = 0.0
    answer: float = 0.0


AT_ONCE = Pace()
TO_WATCH = Pace(calm=6.0, busy=25.0, reading=1.2, dead=2.0, answer=0.6)


def pause_until(stop: threading.Event) -> Pause:
    """A pause that ends at once, with Interrupted, when ``stop`` is set."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted

    return pause
