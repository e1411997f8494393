"""What ties the clock that never jumps to true time, and what the wall clock showed beside it.

Pure. All times are whole microseconds; ``boot_us`` is since boot, true time since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Source = Literal["ntp", "date"]

EARLIEST_US = 1_735_689_600_000_000  # 2025-01-01: no agent ran before; a clock before it is wrong
UNKNOWN_US = 10 * 365 * 86_400_000_000  # the error of a time that nobody can vouch for
DRIFT = 10_000  # one part in this many, 100 ppm: a cheap crystal in the heat; most keep 20 ppm
STEP_US = 20_000  # a wall clock that moved less against the boot clock was not set
SAID_ERROR_US = 2_000_000  # what a Date is good for; events do not leave by one that is worse
LONGEST_EXCHANGE_US = 10_000_000  # a Date that took longer says too little
HELD_BACK_US = 1_000_000  # a correction by less is waited for, even one that nobody can explain
SHOWINGS = 16  # a clock that is set more often in one boot is not worth more memory


@dataclass(frozen=True, slots=True)
class Moment:
    """A true time in microseconds since 1970, and how far off it may be."""

    us: int
    error_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """True time is ``boot_us + offset_us``, and from ``from_us`` on not before ``held_us``.

    ``held_us``: what true time had come to by the anchor before, if that was a little ahead; 0 if
    it was not. ``error_us`` holds between ``from_us`` and ``to_us`` (boot clock), where ``source`` vouched
    for it. Before and after, it grows with the drift of the crystal.
    """

    offset_us: int
    error_us: int
    source: Source
    from_us: int
    to_us: int
    held_us: int = 0

    def true_us(self, boot_us: int) -> int:
        """The true time at that moment of the boot clock."""
        us = boot_us + self.offset_us
        return max(us, self.held_us) if boot_us >= self.from_us else us

    def error_at(self, boot_us: int) -> int:
        """The error at that moment of the boot clock."""
        return self.error_us + max(0, self.from_us - boot_us, boot_us - self.to_us) // DRIFT

    def error_of(self, wall_us: int, boot_us: int) -> int:
        """How far from the truth a clock can be that showed ``wall_us`` at ``boot_us``."""
        return abs(wall_us - boot_us - self.offset_us) + self.error_at(boot_us)

    def contradicts(self, other: "Anchor") -> bool:
        """Whether both cannot be true."""
        apart = abs(self.offset_us - other.offset_us)
        return apart > self.error_us + other.error_at(self.from_us)


def narrowed(old: Anchor, new: Anchor, *, floor_us: int) -> Anchor:
    """What two anchors say together: where they overlap, or the newer if they do not.

    An error under ``floor_us`` is not believed of their overlap.
    """
    known_us = old.error_at(new.from_us)
    low = max(old.offset_us - known_us, new.offset_us - new.error_us)
    high = min(old.offset_us + known_us, new.offset_us + new.error_us)
    if low > high:
        return new
    if known_us <= min(new.error_us, floor_us):
        return old
    return Anchor(
        offset_us=(low + high) // 2,
        error_us=max((high - low + 1) // 2, floor_us),
        source=new.source,
        from_us=new.from_us,
        to_us=new.to_us,
    )


def following(old: Anchor, new: Anchor, *, told_us: int, boot_us: int) -> Anchor:
    """The new anchor as it follows the old one, by which somebody was told ``told_us`` just now.

    A correction within the errors of both lets true time wait, not go back: else the events of
    before it would come after those that follow. Only a contradiction, or more than anybody
    should wait for, is the truth at once.
    """
    behind_us = told_us - new.true_us(boot_us)
    explained_us = old.error_of(told_us, boot_us) + new.error_at(boot_us)
    if 0 < behind_us <= min(max(explained_us, HELD_BACK_US), LONGEST_EXCHANGE_US):
        return replace(new, held_us=told_us)
    return new


@dataclass(frozen=True, slots=True)
class Showing:
    """The wall clock showed ``boot_us + offset_us`` from ``from_us`` to ``to_us``."""

    offset_us: int
    from_us: int
    to_us: int


def shown(showings: Sequence[Showing], *, offset_us: int, boot_us: int) -> tuple[Showing, ...]:
    """The showings with one more look at both clocks; the newest SHOWINGS and the first."""
    last = showings[-1] if showings else None
    if last is not None and abs(offset_us - last.offset_us) <= STEP_US:
        return (*showings[:-1], Showing(last.offset_us, last.from_us, max(boot_us, last.to_us)))
    seen = (*showings, Showing(offset_us, boot_us, boot_us))
    return seen if len(seen) <= SHOWINGS else (seen[0], *seen[-SHOWINGS + 1 :])


def placed(showings: Sequence[Showing], wall_us: int, *, end_us: int) -> list[int]:
    """The moments of the boot clock, before ``end_us``, at which the wall clock can have shown that.

    When exactly the wall clock was set nobody saw: between the last look before and the first
    after, both can have been the case. Before the first look it showed what it showed then.
    """
    begins = [0, *(before.to_us for before in showings[:-1])]
    ends = [*(after.from_us for _, after in pairwise(showings)), end_us]
    spans = zip(showings, begins, ends, strict=True) if showings else ()
    moments = ((wall_us - showing.offset_us, begin, end) for showing, begin, end in spans)
    return [moment for moment, begin, end in moments if begin <= moment <= end]
