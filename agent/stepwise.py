"""Finds what kills the process: after repeated deaths it writes down what it touches.

A row or a message that makes the process die would make it die for ever: systemd starts it
again and it meets the same row. So a run that begins after two deaths in ten minutes goes step
by step: it writes the name of what it touches before it touches it. If it dies too, the next
run knows the culprit and sets it aside.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import atomic_file
from agent.clock import Clock

log = logging.getLogger(__name__)

WINDOW = 600.0  # seconds in which deaths count together, and for which a run goes step by step
DEATHS = 2  # the third death then happens step by step, so that it is the last one
RUN_FILE = "run.json"
TOUCHING_FILE = "touching"


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What the start found: recent deaths, and what the last one was touching."""

    deaths: int
    culprits: tuple[str, ...]


class Runs:
    """The record of starts and ends in the state directory.

    Only deaths in the same boot count: a power cut is nobody's fault.
    """

    def __init__(self, *, directory: Path, clock: Clock) -> None:
        self._run_file = directory / RUN_FILE
        self._touching_file = directory / TOUCHING_FILE
        self._clock = clock
        self._deaths: list[int] = []

    def begin(self) -> Autopsy:
        """Note that a run begins, and look at how the last one ended."""
        now = self._clock.boot_us()
        last = self._last()
        deaths = [*last.get("deaths", []), *([now] if last.get("running") else [])]
        self._deaths = [at for at in deaths if now - at < WINDOW * 1e6]
        autopsy = Autopsy(len(self._deaths), self._culprits() if last.get("running") else ())
        self._write(running=True)
        return autopsy

    def set_aside(self) -> None:
        """The culprits were dealt with."""
        with contextlib.suppress(OSError):
            atomic_file.remove(self._touching_file)

    def end(self) -> None:
        """Note that the run ended as it should."""
        self._write(running=False)

    def _last(self) -> dict[str, Any]:
        try:
            last = json.loads(self._run_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        same_boot = isinstance(last, dict) and last.get("boot_id") == self._clock.boot_id
        return last if same_boot else {}

    def _write(self, *, running: bool) -> None:
        run = {"boot_id": self._clock.boot_id, "running": running, "deaths": self._deaths}
        try:
            atomic_file.write(self._run_file, json.dumps(run).encode())
        except OSError as error:
            log.error("cannot note the run in the state directory: %s", error)

    def _culprits(self) -> tuple[str, ...]:
        try:
            text = self._touching_file.read_text("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return ()
        return tuple(line for line in text.splitlines() if line)


class Stepwise:
    """Writes down what is touched, while it is active; else does nothing."""

    def __init__(
        self,
        *,
        directory: Path,
        deaths: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = directory / TOUCHING_FILE
        self._monotonic = monotonic
        self._until = monotonic() + WINDOW if deaths >= DEATHS else 0.0
        # One step at a time in the whole process, so that there is one culprit: in these ten
        # minutes a publisher may wait for a request that is being sent.
        self._step = threading.Lock()
        self._owner: int | None = None

    @property
    def active(self) -> bool:
        """Whether the process goes step by step."""
        return self._monotonic() < self._until

    @contextmanager
    def step(self) -> Iterator[Callable[..., None]]:
        """Do one thing. Call what this yields with the names of what is touched next."""
        if not self.active:
            yield _untold
            return
        with self._step:
            self._owner = threading.get_ident()
            # Not in a finally: an exception that ends the process leaves the name behind.
            yield self._touch
            self._owner = None
            self._forget()

    def acquit(self) -> None:
        """Another thread's bug ends the process: what this step is touching is innocent."""
        if self._owner not in (None, threading.get_ident()):
            self._forget()

    def _touch(self, *names: str) -> None:
        # On a disk that takes nothing the step goes on untold: it is better than standing still.
        with contextlib.suppress(OSError):
            atomic_file.write(self._file, "\n".join(names).encode())

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            if self._file.exists():
                atomic_file.remove(self._file)


class Condemned:
    """Digests of messages that killed the process. Any thread may call any method."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._digests = frozenset(digests)
        self._lock = threading.Lock()

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def __bool__(self) -> bool:
        return bool(self._digests)

    def forgive(self, digests: Iterable[str]) -> None:
        """Each is set aside once: another message with the same content may be innocent."""
        with self._lock:
            self._digests = self._digests.difference(digests)


def _untold(*_names: str) -> None:
    """Outside of step-by-step mode nothing is written."""
