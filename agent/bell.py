"""Wakes threads that wait for something to do. A ring between look and wait is not lost."""

import threading


class Bell:
    """Rings for everybody who waits, and for who looked before it rang."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rings = 0

    @property
    def rings(self) -> int:
        """How often it rang: note it before looking for work."""
        return self._rings

    def ring(self) -> None:
        """Wake everybody."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, seconds: float, *, since: int) -> None:
        """Return when it rang after ``since``, or after the seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._rings != since, timeout=seconds)
