"""Keeps the history of boots: this boot is entered, and its trust noted as soon as it is won."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from agent.anchor import Moment
from agent.boots import Boot, Boots
from agent.clock import Clock
from agent.event import BootRow, Stamp

KEPT = 100  # boots: a machine that is switched off every night, for three months
BETTER = 2  # times: an anchor that improves by less is not worth a write
MOVED_US = 500_000  # a correction of less is made again in no time


class BootBook:
    """The boots, with this one at the end, and when their stamps were made.

    ``load`` gives the rows that are kept, as (boot_id, number, state); ``store`` keeps rows in
    the place of those with the same ids, and raises what the disk raises: what could not be
    stored is stored with the next call. All methods may be called from any thread.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        load: Callable[[], Iterable[tuple[str, int, str]]],
        store: Callable[[Sequence[BootRow]], object],
        kept: int = KEPT,
    ) -> None:
        self._clock = clock
        self._store = store
        self._kept = kept
        self._lock = threading.Lock()
        self._boots = Boots.of(BootRow(*row) for row in load())
        self._stored: Boot | None = self._boots.boot(clock.boot_id)
        if self._stored is not None:
            clock.adopt(self._stored.latest, self._stored.showings)
        self._catch_up()

    @property
    def boots(self) -> Boots:
        """The history as it is known now."""
        with self._lock:
            self._catch_up()
            return self._boots

    def when(self, stamp: Stamp) -> Moment:
        """The true time of a stamp and its error; no I/O."""
        with self._lock:
            boot = self._boots.boot(self._clock.boot_id)
            # Asked for every event: the history is only made anew when there is news.
            if boot is None or boot.latest != self._clock.anchor:
                self._catch_up()
            boots = self._boots
        return boots.when(stamp, now=self._clock.moment())

    def begin(self, newest: Stamp | None = None) -> None:
        """Enter this boot; the newest stamp in the queue tells how long its boot lasted at least."""
        with self._lock:
            seen = self._boots.boot(newest.boot_id) if newest else None
            if newest and seen and newest.boot_id != self._clock.boot_id:
                seen = seen.alive(newest.boot_us)
                self._boots = self._boots.having(seen, at_most=self._kept)
            else:
                seen = None
            self._keep(*([seen] if seen else []), self._catch_up())

    def observe(self) -> None:
        """Store what the clock has learnt, if it is worth a write; cheap else."""
        with self._lock:
            boot = self._catch_up()
            if _worth_a_write(self._stored, boot):
                self._keep(boot)

    def note_alive(self) -> None:
        """Store that this boot is alive; hourly and at the stop."""
        with self._lock:
            self._keep(self._catch_up())

    def _keep(self, *boots: Boot) -> None:
        self._store([boot.row for boot in boots])
        self._stored = boots[-1]

    def _catch_up(self) -> Boot:
        """This boot with what the clock knows of it now."""
        clock = self._clock
        anchor = clock.anchor
        boot = self._boots.boot(clock.boot_id) or self._entered()
        boot = replace(boot, showings=clock.showings).alive(clock.boot_us())
        if anchor is not None and anchor != boot.latest:
            boot = boot.anchored(anchor)
        self._boots = self._boots.having(boot, at_most=self._kept)
        return boot

    def _entered(self) -> Boot:
        numbers = [boot.number for boot in self._boots.known]
        return Boot(boot_id=self._clock.boot_id, number=max(numbers, default=0) + 1)


def _worth_a_write(stored: Boot | None, boot: Boot) -> bool:
    """Whether the clock was set, or somebody vouched for it anew or much better."""
    if stored is None or len(stored.showings) != len(boot.showings):
        return True
    if stored.latest is None or boot.latest is None:
        return stored.latest is not boot.latest
    return (
        stored.latest.source != boot.latest.source
        or boot.latest.error_us * BETTER <= stored.latest.error_us
        or boot.latest.contradicts(stored.latest)
        # Taken up after a restart, the older one would turn true time back.
        or abs(boot.latest.offset_us - stored.latest.offset_us) > MOVED_US
    )
