"""How long to wait after a failure. Pure but for the random numbers it is given."""

from collections.abc import Callable

FIRST = 2.0  # seconds, also the least wait
CAP = 300.0
HOUR = 3600.0


class Backoff:
    """Doubles its window from 4 s to 5 min and draws from all of it.

    The jitter comes after the cap: computed before, it would vanish at the cap, and a thousand
    kiosks would return in the same second.
    """

    def __init__(self, *, random: Callable[[], float]) -> None:
        """``random`` gives numbers from 0 to 1."""
        self._random = random
        self._failures = 0

    def succeeded(self) -> None:
        """Start again from the beginning."""
        self._failures = 0

    def failed(self, *, asked: float | None = None) -> float:
        """Seconds to wait now; never less than the server ``asked`` for."""
        self._failures += 1
        window = min(CAP, FIRST * 2.0 ** min(self._failures, 16))
        wait = FIRST + self._random() * (window - FIRST)
        return wait if asked is None else max(wait, asked + self._random() * FIRST)

    def hourly(self) -> float:
        """Seconds to wait when only a person can mend it: about an hour."""
        return HOUR * (0.9 + 0.2 * self._random())
