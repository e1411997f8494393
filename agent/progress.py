"""Proof of life: a loop that stops making progress stops the watchdog's feeding."""

import time
from collections.abc import Callable, Sequence


class Progress:
    """The life sign of one loop. It is late when its next beat is overdue."""

    def __init__(
        self, *, name: str, patience: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``patience``: seconds that one turn of the loop may take, its known waits included."""
        self.name = name
        self._patience = patience
        self._monotonic = monotonic
        self._due: float | None = None

    def beat(self) -> None:
        """The loop goes round."""
        self._due = self._monotonic() + self._patience

    def done(self) -> None:
        """The loop has ended on purpose; nothing is due any more."""
        self._due = None

    @property
    def running(self) -> bool:
        """Whether it goes round: it has beaten, and has not ended."""
        return self._due is not None

    @property
    def late_s(self) -> float:
        """Seconds for which a beat has been overdue; 0 when none is."""
        due = self._due
        return 0.0 if due is None else max(0.0, self._monotonic() - due)


def stuck(
    loops: Sequence[Progress], *, committing_s: float, storage_patience: float
) -> tuple[str, ...]:
    """The names of the loops that hang.

    A loop that is late by less than the present commit has lasted may be waiting for it: a dying
    card takes minutes, and a restart would not mend it. A commit beyond ``storage_patience``
    seconds is a hang itself.
    """
    if committing_s > storage_patience:
        return ("storage",)
    return tuple(loop.name for loop in loops if loop.late_s > committing_s)
