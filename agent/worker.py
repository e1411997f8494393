"""A named thread: started, stopped, joined; degraded when it must, loud when it is a bug."""

import logging
import threading
from collections.abc import Callable, Sequence

from agent.intake.source import SourceUnavailable
from agent.progress import Progress

log = logging.getLogger(__name__)

LOOK = 0.1  # seconds between looks whether those before it have ended
RETRY = 30.0  # seconds between attempts of a source that is unavailable


class Worker:
    """Runs ``target(stop, progress)`` in a thread of its own."""

    def __init__(
        self,
        *,
        name: str,
        target: Callable[[threading.Event, Progress], None],
        patience: float,
        on_bug: Callable[[BaseException], None],
        on_stop: Callable[[], None] = lambda: None,
        retry: float = RETRY,
        after: "Sequence[Worker]" = (),
    ) -> None:
        """``patience``: seconds that one turn of the target's loop may take.

        ``after``: it begins only when these have ended, for they do the same work.
        """
        self._target = target
        self._on_bug = on_bug
        self._on_stop = on_stop
        self._retry = retry
        self._after = after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.progress = Progress(name=name, patience=patience)
        self._unavailable: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the target is unavailable; None once it runs."""
        return None if self.progress.running else self._unavailable

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._thread.name

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs, or one that it was to wait for when it was stopped."""
        return self._thread.is_alive() or any(worker.is_alive for worker in self._after)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; ``join`` waits for it."""
        self._stop.set()
        self._on_stop()

    def join(self, timeout: float) -> bool:
        """Wait for the end; whether it came within the seconds."""
        self._thread.join(timeout)
        return not self.is_alive

    def _run(self) -> None:
        try:
            self._wait_for_others()
            while not self._stop.is_set():
                if self._works():
                    break
                self._stop.wait(self._retry)
        except BaseException as bug:
            self._on_bug(bug)
        finally:
            self.progress.done()

    def _wait_for_others(self) -> None:
        """No beats: if one of them hangs, the watchdog must see that nothing is done here."""
        if any(worker.is_alive for worker in self._after):
            log.warning("%s: the last one is still busy; waiting for it", self.name)
        self.progress.beat()
        while any(worker.is_alive for worker in self._after) and not self._stop.is_set():
            self._stop.wait(LOOK)

    def _works(self) -> bool:
        """Run the target to its end; False when it is unavailable for now."""
        try:
            self._target(self._stop, self.progress)
        except SourceUnavailable as unavailable:
            self.progress.done()
            if self._unavailable != str(unavailable):
                log.error(
                    "%s is degraded: %s; trying again every %.0f s",
                    self.name,
                    unavailable,
                    self._retry,
                )
            self._unavailable = str(unavailable)
            return False
        return True
