"""The history of this machine's boots, and what it says about when a stamp was made.

Pure. A boot whose clock was trusted at some moment knows the true time of all its stamps. The
others lie between their neighbours: a boot without a trusted clock began after the one before it
was last seen alive, and had ended when the next one began.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.anchor import (
    DRIFT,
    EARLIEST_US,
    SAID_ERROR_US,
    UNKNOWN_US,
    Anchor,
    Moment,
    Showing,
    placed,
)
from agent.event import BootRow, Stamp

KEEPS_TIME_US = 60_000_000  # a clock that is right to this after a power cut has a battery


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What is known of one boot.

    ``number``: their order. ``alive_us``: the last moment of its clock that is known.
    ``showings``: what its wall clock showed. ``first``: the anchor that speaks for all before it
    and from which on trusted stamps say the truth; ``latest``: the newest; None if its clock was
    never trusted.
    """

    boot_id: str
    number: int
    alive_us: int = 0
    showings: tuple[Showing, ...] = ()
    first: Anchor | None = None
    latest: Anchor | None = None

    @classmethod
    def of(cls, row: BootRow) -> "Boot":
        """Read a row; of one that is damaged only the place among the others is known."""
        try:
            state = json.loads(row.state)
            return cls(
                boot_id=row.boot_id,
                number=row.number,
                alive_us=int(state["alive_us"]),
                showings=tuple(Showing(**each) for each in state["showings"]),
                first=_anchor(state["first"]),
                latest=_anchor(state["latest"]),
            )
        except (ValueError, TypeError, KeyError):
            return cls(boot_id=row.boot_id, number=row.number)

    @property
    def row(self) -> BootRow:
        """As it is kept."""
        state = asdict(self)
        del state["boot_id"], state["number"]
        return BootRow(self.boot_id, self.number, json.dumps(state, separators=(",", ":")))

    def anchored(self, anchor: Anchor) -> "Boot":
        """The clock is trusted, or is so by a newer anchor.

        One that is much better may speak for the time before it too, and one that contradicts is
        the truth.
        """
        first = anchor if _takes_over(anchor, self.first, self.latest) else self.first
        return replace(self, first=first, latest=anchor)

    def alive(self, boot_us: int) -> "Boot":
        """It was seen alive at that moment of its clock."""
        return replace(self, alive_us=max(self.alive_us, boot_us))

    def true(self, stamp: Stamp) -> Moment | None:
        """When one of its stamps was made, by its own anchors; None without any.

        In the order of ``boot_us`` the times only go back where the trusted clock itself did,
        and what has left is not overtaken by what is left.
        """
        first, latest = self.first, self.latest
        if first is None or latest is None:
            return None
        itself = stamp.trusted and stamp.boot_us >= first.from_us
        us = stamp.wall_us if itself else stamp.boot_us + first.offset_us
        return Moment(us, min(anchor.error_of(us, stamp.boot_us) for anchor in (first, latest)))


@dataclass(frozen=True, slots=True)
class Boots:
    """All known boots, oldest first."""

    known: tuple[Boot, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[BootRow]) -> "Boots":
        """From rows in any order."""
        return cls(tuple(sorted(map(Boot.of, rows), key=lambda boot: boot.number)))

    def boot(self, boot_id: str) -> Boot | None:
        """The boot with that id, if it is known."""
        return next((boot for boot in reversed(self.known) if boot.boot_id == boot_id), None)

    def having(self, boot: Boot, *, at_most: int) -> "Boots":
        """With this boot in the place of what was known of it; only the newest are kept."""
        others = (other for other in self.known if other.boot_id != boot.boot_id)
        known = sorted((*others, boot), key=lambda boot: boot.number)
        return Boots(tuple(known[-at_most:]))

    def when(self, stamp: Stamp, *, now: Moment) -> Moment:
        """The true time of a stamp, not after ``now`` if that is known.

        A trusted stamp says it itself, unless a better or contradicting anchor came later in its
        boot. Other stamps of a boot that was trusted at some time are repaired by its boot clock.
        Those of other boots are bounded by their neighbours: the wall clock's word is taken where
        it is possible, else the middle. Without a boot (a file's time): that of the one boot whose
        wall clock can have shown it, else see ``_by_wall``.
        """
        found = self._when(stamp, now)
        latest_us = found.us if now.error_us >= UNKNOWN_US else now.us
        return Moment(min(found.us, latest_us), found.error_us)

    def _when(self, stamp: Stamp, now: Moment) -> Moment:
        boot = self.boot(stamp.boot_id)
        if boot is not None:
            return boot.true(stamp) or self._between(boot, stamp.boot_us, now)
        if stamp.trusted:
            return Moment(stamp.wall_us, SAID_ERROR_US)
        places = [] if stamp.boot_id else self._places(stamp.wall_us)
        return self._when(places[0], now) if len(places) == 1 else self._by_wall(stamp.wall_us, now)

    def _places(self, wall_us: int) -> list[Stamp]:
        """The moments of known boots at which the wall clock can have shown that."""
        return [
            Stamp(wall_us, boot_us, boot.boot_id, trusted=False)
            for boot in self.known
            for boot_us in placed(boot.showings, wall_us, end_us=boot.alive_us)
        ]

    def _between(self, boot: Boot, boot_us: int, now: Moment) -> Moment:
        """The time of a moment in a boot that never saw a trusted clock."""
        low, high, doubt_us = self._offsets(boot, now)
        doubt_us += boot_us // DRIFT
        showed = [each.offset_us for each in boot.showings if low <= each.offset_us <= high]
        middle = (low + high) // 2 if high - low < UNKNOWN_US else low
        offset = showed[-1] if showed else middle  # whoever set the clock later knew more
        return Moment(boot_us + offset, max(offset - low, high - offset) + doubt_us)

    def _offsets(self, boot: Boot, now: Moment) -> tuple[int, int, int]:
        """The bounds of the true time at which it began, and the doubt about both."""
        low, low_doubt = self._earliest(boot)
        high, high_doubt = self._latest(boot, now)
        # They only cross where an anchor was wrong; then nothing is certain but the order.
        return min(low, high), max(low, high), max(low_doubt, high_doubt)

    def _earliest(self, boot: Boot) -> tuple[int, int]:
        """The last true time before it that is known, and what the boots in between lasted."""
        lasted_us = 0
        for other in reversed([each for each in self.known if each.number < boot.number]):
            if other.latest is not None:
                end_us = other.alive_us + other.latest.offset_us
                doubt_us = other.latest.error_at(other.alive_us)
                return end_us + lasted_us, doubt_us + lasted_us // DRIFT
            lasted_us += other.alive_us
        return EARLIEST_US + lasted_us, lasted_us // DRIFT

    def _latest(self, boot: Boot, now: Moment) -> tuple[int, int]:
        """The first true time after it that is known, less what it and the ones between lasted."""
        lasted_us = boot.alive_us
        for other in (each for each in self.known if each.number > boot.number):
            if other.first is not None:
                doubt_us = other.first.error_at(0)
                return other.first.offset_us - lasted_us, doubt_us + lasted_us // DRIFT
            lasted_us += other.alive_us
        if now.error_us >= UNKNOWN_US:
            return self._earliest(boot)[0] + UNKNOWN_US, 0
        return now.us - lasted_us, now.error_us + lasted_us // DRIFT

    def _by_wall(self, wall_us: int, now: Moment) -> Moment:
        """What a time is worth of which only the wall clock's word is left.

        If the clock was right from the beginning in the first boot that began later (so it has a
        battery), it is believed to a minute. Else the time is taken to lie where it says, between
        the boots around it.
        """
        if not EARLIEST_US <= wall_us <= now.us + now.error_us:
            return Moment(max(EARLIEST_US, min(wall_us, now.us)), UNKNOWN_US)
        low, high, kept = self._around(wall_us, now)
        return Moment(wall_us, KEEPS_TIME_US if kept else max(wall_us - low, high - wall_us))

    def _around(self, wall_us: int, now: Moment) -> tuple[int, int, bool]:
        """The nearest known true times before and after, and whether the clock outlives a cut."""
        trusted = [(boot, boot.first.offset_us) for boot in self.known if boot.first is not None]
        ends = [start + boot.alive_us for boot, start in trusted]
        later = [(boot, start) for boot, start in trusted if start >= wall_us]
        low = max((end for end in ends if end <= wall_us), default=EARLIEST_US)
        if not later:
            return low, now.us + now.error_us, False
        boot, start = later[0]
        return low, start, bool(boot.showings) and _right(boot.showings[0], start)


def _takes_over(anchor: Anchor, first: Anchor | None, latest: Anchor | None) -> bool:
    """Whether an anchor is worth that stamps repaired by the first one get another time.

    Part of a backlog may have left by the first one: moved back, what is left of it would come
    before that. Nothing leaves by a Date that is worse than it should be before a second one was
    asked for. NTP may move all forward, if it all went by one and the same anchor.
    """
    if first is None or latest is None or anchor.contradicts(first):
        return True
    nothing_left = first.error_us > SAID_ERROR_US
    forward = anchor.source == "ntp" and anchor.offset_us >= first.offset_us == latest.offset_us
    return (nothing_left or forward) and anchor.error_at(first.from_us) < first.error_us


def _anchor(state: Any) -> Anchor | None:
    return None if state is None else Anchor(**state)


def _right(showing: Showing, offset_us: int) -> bool:
    return abs(showing.offset_us - offset_us) <= KEEPS_TIME_US
