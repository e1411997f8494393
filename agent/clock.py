"""What time it is: wall clock, boot clock, and whether the wall clock can be trusted."""

import ctypes
import errno
import time
from collections.abc import Callable
from pathlib import Path

from agent.event import Stamp

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STA_UNSYNC = 0x0040  # <linux/timex.h>: the kernel has not heard from NTP
TIMEX_STATUS_OFFSET = 5  # the field `status` in words: modes, offset, freq, maxerror, esterror


def boot_us() -> int:
    """Microseconds since boot, time asleep included; never jumps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_us() -> int:
    """Microseconds since 1970 as the wall clock says; jumps when it is set."""
    return time.time_ns() // 1000


def kernel_synchronised() -> bool:
    """Whether NTP has set the clock, as adjtimex(2) says; False when it may not be asked."""
    words = (ctypes.c_long * 64)()  # struct timex is 208 bytes at most; modes 0 only reads
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(words) < 0:
        if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
            return False
        raise OSError(ctypes.get_errno(), "cannot ask the kernel whether the clock is set")
    return not words[TIMEX_STATUS_OFFSET] & STA_UNSYNC


class Clock:
    """Makes stamps. Once trusted in a boot, trusted for that boot."""

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
        self._trusted = False

    @property
    def trusted(self) -> bool:
        """Whether the wall clock is known to be right."""
        self._trusted = self._trusted or self._synchronised()
        return self._trusted

    def wall_us(self) -> int:
        """Microseconds since 1970 by the wall clock."""
        return self._wall()

    def boot_us(self) -> int:
        """Microseconds since boot."""
        return self._boot()

    def stamp(self) -> Stamp:
        """The time now."""
        return Stamp(self._wall(), self._boot(), self.boot_id, self.trusted)

    def stamp_of(self, wall_us: int) -> Stamp:
        """The time that the wall clock showed at an earlier moment, such as a file's.

        If that was before this boot, or by a clock that was another then, nobody knows its boot.
        """
        now = self.stamp()
        ago = max(0, now.wall_us - wall_us)
        if ago > now.boot_us:
            return Stamp(wall_us, 0, "", trusted=False)
        return Stamp(now.wall_us - ago, now.boot_us - ago, now.boot_id, now.trusted)

    def age_s(self, stamp: Stamp) -> float:
        """Seconds since the stamp; of another boot only the wall clock can tell, at least 0."""
        age = self.age_in_this_boot_s(stamp)
        return max(0.0, (self._wall() - stamp.wall_us) / 1e6) if age is None else age

    def age_in_this_boot_s(self, stamp: Stamp) -> float | None:
        """Seconds since the stamp by the clock that never jumps; None for another boot's.

        A stamp that this boot's clock has not reached yet is none of this boot, whatever it says.
        """
        age = self._boot() - stamp.boot_us
        return age / 1e6 if stamp.boot_id == self.boot_id and age >= 0 else None
