"""What time it is: wall clock, boot clock, and whether the wall clock can be trusted."""

import ctypes
import errno
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from agent.anchor import (
    EARLIEST_US,
    LONGEST_EXCHANGE_US,
    STEP_US,
    UNKNOWN_US,
    Anchor,
    Moment,
    Showing,
    following,
    narrowed,
    placed,
    shown,
)
from agent.event import Stamp

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STA_UNSYNC = 0x0040  # <linux/timex.h>: the kernel has not heard from NTP
TIMEX_STATUS_OFFSET = 5  # the field `status` in words: modes, offset, freq, maxerror, esterror
LIBC = ctypes.CDLL(None, use_errno=True)  # loaded once: an untrusted clock asks for every stamp
SECOND = 1_000_000
NTP_ERROR_US = 50_000  # what NTP keeps over a bad line; on a good one it is a few ms
DATE_ERROR_US = 500_000  # a Date names a second: the middle of it is at most this far off
STEADY_READ_US = 1_000  # both clocks are read within this, unless the machine is that busy
READS = 5
STAMPS_WHILE_HELD = 1000  # each a microsecond later, by a process that has ended since


def boot_us() -> int:
    """Microseconds since boot, time asleep included; never jumps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_us() -> int:
    """Microseconds since 1970 as the wall clock says; jumps when it is set."""
    return time.time_ns() // 1000


def kernel_synchronised() -> bool:
    """Whether NTP has set the clock, as adjtimex(2) says; False when it may not be asked."""
    words = (ctypes.c_long * 64)()  # struct timex is 208 bytes at most; modes 0 only reads
    if LIBC.adjtimex(words) < 0:
        if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
            return False
        raise OSError(ctypes.get_errno(), "cannot ask the kernel whether the clock is set")
    return not words[TIMEX_STATUS_OFFSET] & STA_UNSYNC


class Clock:
    """Makes stamps, and knows the true time as soon as somebody vouches for it.

    NTP vouches for the wall clock (the kernel's flag), or a verified answer's Date for a moment
    of the boot clock (``confirm``). Once trusted in a boot, trusted for that boot: the boot clock
    carries the truth on, and ``error_us`` grows with its drift until somebody vouches again. All
    methods may be called from any thread.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], int] = wall_us,
        boot: Callable[[], int] = boot_us,
        boot_id: str | None = None,
        synchronised: Callable[[], bool] = kernel_synchronised,
    ) -> None:
        self._wall = wall
        self._boot = boot
        self.boot_id = boot_id if boot_id is not None else BOOT_ID.read_text("ascii").strip()
        self._synchronised = synchronised
        self._lock = threading.Lock()
        self._anchor: Anchor | None = None
        self._showings: tuple[Showing, ...] = ()
        self._by_ntp = False  # what the kernel said last
        self._asked_us = 0
        self._last_boot_us = -1  # of the newest stamp
        self._told_us = 0  # the true time of the newest stamp
        self.note_offset()

    @property
    def trust(self) -> Literal["", "ntp", "date"]:
        """Who vouched for the time; empty if nobody did yet."""
        with self._lock:
            self._look()
            return self._anchor.source if self._anchor else ""

    @property
    def trusted(self) -> bool:
        """Whether the true time is known."""
        return self.trust != ""

    @property
    def error_us(self) -> int:
        """How far ``now_us`` may be off, in microseconds; UNKNOWN_US while untrusted."""
        return self.moment().error_us

    @property
    def anchor(self) -> Anchor | None:
        """What ties the boot clock to true time; None while untrusted."""
        with self._lock:
            self._look()
            return self._anchor

    @property
    def showings(self) -> tuple[Showing, ...]:
        """What the wall clock has shown in this boot, as far as was looked."""
        return self._showings

    def wall_us(self) -> int:
        """Microseconds since 1970 by the wall clock, right or wrong."""
        return self._wall()

    def boot_us(self) -> int:
        """Microseconds since boot."""
        return self._boot()

    def now_us(self) -> int:
        """Microseconds since 1970, true if trusted, else what the wall clock says."""
        return self.moment().us

    def moment(self) -> Moment:
        """The time now and its error."""
        with self._lock:
            wall, boot = self._look()
            if self._anchor is None:
                return Moment(wall, UNKNOWN_US)
            us = self._anchor.true_us(boot)
            return Moment(us, self._anchor.error_of(us, boot))

    def note_offset(self) -> None:
        """Look at both clocks, so that times noted before the next jump can be placed."""
        with self._lock:
            self._look()

    def confirm(
        self, *, server_us: int, error_us: int, sent_boot_us: int, received_boot_us: int
    ) -> None:
        """A verified answer said the time. Ignored while NTP vouches, or if it took too long.

        ``server_us``: the middle of the second that its Date named, ``error_us``: half a second;
        half the exchange is added here. Several answers narrow each other down to 0.5 s.
        """
        took_us = received_boot_us - sent_boot_us
        if not 0 <= took_us <= LONGEST_EXCHANGE_US or server_us < EARLIEST_US:
            return
        with self._lock:
            _, boot = self._look()
            if not self._by_ntp:
                said = Anchor(
                    offset_us=server_us - (sent_boot_us + received_boot_us) // 2,
                    error_us=error_us + (took_us + 1) // 2,
                    source="date",
                    from_us=boot,
                    to_us=boot,
                )
                old = self._anchor
                self._trust(narrowed(old, said, floor_us=DATE_ERROR_US) if old else said, boot)

    def adopt(self, anchor: Anchor | None, showings: Sequence[Showing] = ()) -> None:
        """Take over what an earlier process knew in this boot; its true time does not go back."""
        with self._lock:
            for own in self._showings:
                showings = shown(showings, offset_us=own.offset_us, boot_us=own.from_us)
            self._showings = tuple(showings)
            _, boot = self._look()
            if anchor is not None:
                known, self._anchor = self._anchor, anchor
                self._told_us = max(self._told_us, anchor.held_us + STAMPS_WHILE_HELD)
                self._trust(known or anchor, boot)

    def stamp(self) -> Stamp:
        """The time now. Later stamps have a later ``boot_us``, and once trusted a later time.

        Only what contradicts the time so far lets trusted time go back.
        """
        with self._lock:
            wall, boot = self._look()
            self._last_boot_us = max(boot, self._last_boot_us + 1)
            if self._anchor is None:
                return Stamp(wall, self._last_boot_us, self.boot_id, trusted=False)
            self._told_us = max(self._anchor.true_us(self._last_boot_us), self._told_us + 1)
            return Stamp(self._told_us, self._last_boot_us, self.boot_id, trusted=True)

    def stamp_of(self, wall_us: int) -> Stamp:
        """The time that the wall clock showed at an earlier moment, such as a file's.

        The future is now. If it was before this boot, or the wall clock was set back and showed
        it twice, nobody knows the moment: the stamp has no boot and no trust.
        """
        with self._lock:
            wall, boot = self._look()
            moments = placed(self._showings, wall_us, end_us=boot)
            if not moments and wall_us > wall:
                wall_us, moments = wall, [boot]
            if len(moments) != 1:
                return Stamp(wall_us, 0, "", trusted=False)
            then = moments[0]
            if self._anchor is None:
                return Stamp(wall_us, then, self.boot_id, trusted=False)
            return Stamp(self._anchor.true_us(then), then, self.boot_id, trusted=True)

    def age_s(self, stamp: Stamp) -> float:
        """Seconds since the stamp; of another boot only the time can tell, at least 0."""
        age = self.age_in_this_boot_s(stamp)
        return max(0.0, (self.now_us() - stamp.wall_us) / 1e6) if age is None else age

    def age_in_this_boot_s(self, stamp: Stamp) -> float | None:
        """Seconds since the stamp by the clock that never jumps; None for another boot's.

        A stamp that this boot's clock has not reached yet is none of this boot, whatever it says.
        """
        age = max(self._boot(), self._last_boot_us) - stamp.boot_us
        return age / 1e6 if stamp.boot_id == self.boot_id and age >= 0 else None

    def _look(self) -> tuple[int, int]:
        """Wall and boot clock now; what they say about the past and the trust is noted."""
        wall, boot = self._read()
        stepped = not self._showings or abs(wall - boot - self._showings[-1].offset_us) > STEP_US
        self._showings = shown(self._showings, offset_us=wall - boot, boot_us=boot)
        if stepped or not self._by_ntp or boot - self._asked_us >= SECOND:
            self._ask(wall, boot)
        return wall, boot

    def _read(self) -> tuple[int, int]:
        """Both clocks at one moment: a pause between the two readings would be taken for an offset."""
        for _ in range(READS):
            before, wall, after = self._boot(), self._wall(), self._boot()
            if after - before <= STEADY_READ_US:
                break
        return wall, (before + after) // 2

    def _ask(self, wall: int, boot: int) -> None:
        """Ask the kernel about NTP. Before 2025 its answer is wrong, whatever it is."""
        went_on = self._by_ntp
        self._by_ntp = wall >= EARLIEST_US and self._synchronised()
        self._asked_us = boot
        if self._by_ntp:
            self._trust(self._ntp_anchor(wall - boot, boot, went_on=went_on), boot)

    def _ntp_anchor(self, offset_us: int, boot: int, *, went_on: bool) -> Anchor:
        """The anchor that goes on, or a new one after a step or a time without NTP."""
        old = self._anchor
        same = old and old.source == "ntp" and abs(offset_us - old.offset_us) <= STEP_US
        since = boot
        if old and same:
            offset_us = old.offset_us
            since = old.from_us if went_on else boot
        return Anchor(
            offset_us=offset_us, error_us=NTP_ERROR_US, source="ntp", from_us=since, to_us=boot
        )

    def _trust(self, anchor: Anchor, boot: int) -> None:
        """True time goes on from where it was, even if the new anchor is a little behind."""
        old = self._anchor
        if old is not None:
            told_us = max(old.true_us(boot), self._told_us)
            anchor = following(old, anchor, told_us=told_us, boot_us=boot)
            if anchor.true_us(boot) < told_us:
                self._told_us = 0
        self._anchor = anchor
