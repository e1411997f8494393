"""Which rows are older than their place says.

A row's id says when it was taken, which is the order of what this device stamps itself. Files of
the spool folder and times of publishers may lie long before: such a row says so in the column
``early``, so that the event that waits longest is found without a look at all of them.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agent.event import Event, RawMessage, Stamp
from agent.queue import serializer
from agent.queue.pages import READY
from agent.queue.serializer import DamagedRow

SLACK_US = 60_000_000  # so much earlier changes no report; threads of one source are this close
FIRST, EARLIEST = 5, 20  # rows that are looked at: the first ones in order, and the earliest others
NEWEST = 200  # rows in which the newest stamp is looked for at the start
SINCE = 2  # the schema's version that has the column


@dataclass(frozen=True, slots=True)
class Dated:
    """When something happened, as its row says: the device's stamp, and a publisher's word.

    The publisher's time is None if there is none.
    """

    stamp: Stamp
    time_us: int | None = None

    @classmethod
    def of(cls, item: Event | RawMessage) -> "Dated":
        """That of an item."""
        return cls(item.stamp, item.time_us if isinstance(item, Event) else None)

    @classmethod
    def of_columns(cls, written: float) -> "Dated":
        """What is left to be said of a damaged row, by its column (seconds since 1970)."""
        return cls(Stamp(int(written * 1e6), 0, "", trusted=False))

    @property
    def claimed_s(self) -> float:
        """Seconds since 1970, by whoever's clock it is."""
        return (self.stamp.wall_us if self.time_us is None else self.time_us) / 1e6


class Order:
    """Tells what comes in order from what comes late. Asked inside transactions, one at a time.

    In order is what this boot stamped, by the clock that never jumps. In doubt a row is late:
    that costs a little, and falsifies nothing.
    """

    def __init__(self) -> None:
        self._boot_id = ""
        self._number = -1
        self._newest_us = 0  # of this boot's stamps, by its boot clock

    def begin(self, boot_id: str, number: int) -> None:
        """That is the present boot, if none with a greater number is known."""
        if number >= self._number and boot_id != self._boot_id:
            self._boot_id, self._number, self._newest_us = boot_id, number, 0

    def remember(self, stamps: Iterable[Stamp]) -> None:
        """What was put before this process began."""
        for stamp in stamps:
            self._in_order(stamp)

    def early(self, dated: Dated) -> float | None:
        """What the column says of a row that is put now: None if it comes in order."""
        stamp, time_us = dated.stamp, dated.time_us
        in_order = self._in_order(stamp)
        now = time_us is None or (stamp.trusted and time_us >= stamp.wall_us - SLACK_US)
        return None if in_order and now else dated.claimed_s

    def _in_order(self, stamp: Stamp) -> bool:
        if not stamp.boot_id or stamp.boot_id != self._boot_id:
            return False
        in_order = stamp.boot_us >= self._newest_us - SLACK_US
        self._newest_us = max(self._newest_us, stamp.boot_us)
        return in_order


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting row that may be the one that happened first."""

    id: int
    early: bool
    written: float


def candidates(
    connection: sqlite3.Connection, table: str, *, after: int = 0, version: int = SINCE
) -> list[Candidate]:
    """The first waiting rows behind ``after``, and the earliest of those that came late."""
    first = (
        f"SELECT _id, 0, COALESCE(CAST(timestamp AS REAL), 0.0) FROM {table} "
        f"WHERE status < {READY} AND _id > ? ORDER BY _id LIMIT {FIRST}"
    )
    rows = connection.execute(first, (after,)).fetchall()
    if version >= SINCE:
        # Named: the planner would rather go through all rows by their ids.
        late = (
            f"SELECT _id, 1, 0.0 FROM {table} INDEXED BY queue_early "
            f"WHERE early IS NOT NULL AND status < {READY} ORDER BY early LIMIT {EARLIEST}"
        )
        rows += connection.execute(late).fetchall()
    return [Candidate(row_id, bool(early), written) for row_id, early, written in rows]


def dated(found: Sequence[Candidate], look: Callable[[int], Dated | None]) -> tuple[Dated, ...]:
    """What the candidates say; ``look`` gives None of a damaged row.

    A damaged row is left out, unless there is nothing else: then its column speaks for it.
    """
    said = [one for candidate in found if (one := look(candidate.id))]
    if said or not found:
        return tuple(said)
    return tuple(Dated.of_columns(each.written) for each in found if not each.early)


def dated_row(data: bytes | None) -> Dated | None:
    """What a row says; None if it is damaged."""
    try:
        return Dated.of(serializer.loads(data or b""))
    except DamagedRow:
        return None
