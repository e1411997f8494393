"""What goes when the queue is full: dead letters first, then the least important, oldest first.

It works inside the transaction of the put that needs the room. Rows that are being delivered are
left alone, and so is what is more important than what comes in.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agent import crash_point
from agent.event import Priority
from agent.queue.cap import Cap
from agent.queue.connection import used_bytes
from agent.queue.failures import QueueFull
from agent.queue.group_commit import Transaction
from agent.queue.lanes import Lanes
from agent.queue.ledger import Ledger
from agent.queue.pages import DEAD, READY
from agent.queue.rows import BYTES, DEAD_BYTES, EVICTED, EXPIRED, ROW_OVERHEAD, NewRow, Rows

ROWS = 64  # looked at together
EMPTY = 32 * 1024  # bytes of the file without rows, roughly
BY_IMPORTANCE = sorted(Priority)  # the most important first
LESSER = (int(Priority.NORMAL), int(Priority.LOW))

Excess = Callable[[], int]  # bytes that still have to go; 0 or less: none


class Eviction:
    """The order in which rows go, and how far that has come.

    ``evicts``: whether waiting events go; else what comes in and does not fit is declined.
    """

    def __init__(
        self, *, table: str, rows: Rows, lanes: Lanes, cap: Cap, ledger: Ledger, evicts: bool
    ) -> None:
        self.evicts = evicts
        self.rows = rows
        self.lanes = lanes
        self.cap = cap
        self._ledger = ledger
        self._table = table
        # A search need not begin with what has gone, or is of another priority.
        self._gone_up_to = dict.fromkeys(Priority, 0)

    def gone_up_to(self, priority: Priority) -> int:
        """Every row of the priority with an id up to there has gone."""
        return self._gone_up_to[priority]

    def note_gone(self, gone: dict[Priority, int]) -> None:
        """So many more have gone."""
        self._gone_up_to.update(gone)

    def note_back(self, row_id: int) -> None:
        """A row waits again in its old place."""
        for priority, gone in self._gone_up_to.items():
            self._gone_up_to[priority] = min(gone, row_id - 1)

    def trim_dead(self, transaction: Transaction, coming: int = 0) -> None:
        """Keep dead letters within their share, with so many bytes of them to come."""
        self.expire(transaction, lambda: self.dead_excess(transaction, coming))

    def expire(self, transaction: Transaction, excess: Excess) -> None:
        """Drop dead letters, oldest first, until nothing is in excess or none is left."""
        sql = (
            f"SELECT _id, bytes FROM {self._table} WHERE status = {DEAD} ORDER BY _id LIMIT {ROWS}"
        )
        while (need := excess()) > 0:
            victims = transaction.connection.execute(sql).fetchall()
            if not victims:
                return
            ids = [row_id for row_id, *_ in victims[: _enough(victims, need)]]
            self.rows.expire(transaction, ids)
            crash_point.reached("evict.middle")

    def oldest(
        self, transaction: Transaction, priority: Priority, after: int, need: int
    ) -> list[tuple[Any, ...]]:
        """Id, stream and priority of the oldest waiting rows; so many bytes, if there are."""
        # Said twice for the planner: see EventQueue._waiting.
        condition = (
            "priority = ?" if priority == Priority.NORMAL else "priority = ? AND priority <> 1"
        )
        sql = (
            f"SELECT _id, stream, priority, bytes FROM {self._table} "
            f"WHERE {condition} AND status < {READY} AND _id > ? ORDER BY _id LIMIT {ROWS}"
        )
        rows = transaction.connection.execute(sql, (int(priority), after)).fetchall()
        return [row[:3] for row in rows[: _enough(rows, need)]]

    def over(self, transaction: Transaction, coming: int) -> int:
        """Bytes by which the file outgrows its room with what is coming."""
        return used_bytes(transaction.connection) + coming - self.cap.room

    def excess(self, transaction: Transaction, priority: Priority, coming: int) -> int:
        """Likewise, with the share that is kept for what is more important."""
        over = self.over(transaction, coming)
        if priority == Priority.HIGH:
            return over
        lesser = sum(self._counted(transaction, f"{BYTES}{each}") for each in LESSER)
        return max(over, lesser + coming - self.cap.lesser_room)

    def dead(self, transaction: Transaction) -> int:
        """Bytes of dead letters."""
        return self._counted(transaction, DEAD_BYTES)

    def _counted(self, transaction: Transaction, counter: str) -> int:
        return self._ledger.value(counter) + transaction.changes[counter]

    def dead_excess(self, transaction: Transaction, coming: int) -> int:
        """Bytes by which dead letters outgrow their share."""
        return self.dead(transaction) + coming - self.cap.dead_room


class Clearing:
    """The room for one put: made inside its transaction, and kept or given up with it."""

    def __init__(self, eviction: Eviction, *, can_wait: bool = False) -> None:
        """``can_wait``: the source keeps what comes until there is room."""
        self._eviction = eviction
        self._evicts = eviction.evicts and not (can_wait and eviction.cap.spool_may_wait)
        self._claimed: list[int] = []  # nobody may lease what is being evicted
        self._gone: dict[Priority, int] = {}
        self._coming = 0

    def make_room(self, transaction: Transaction, rows: Sequence[NewRow]) -> list[NewRow]:
        """The rows that fit now. Those that do not are counted, as if they went at once.

        Raises QueueFull; dead letters may have gone for it, and are counted.
        """
        self._decline_what_cannot_fit(rows)
        dead = [row for row in rows if not row.waiting]
        self._eviction.trim_dead(transaction, coming=_size(dead))
        groups = [
            self._fit(transaction, priority, _of(rows, priority)) for priority in BY_IMPORTANCE
        ]
        fit = {id(row) for group in groups for row in group}
        fit |= {id(row) for row in self._fit_dead(transaction, dead)}
        return [row for row in rows if id(row) in fit]

    def committed(self) -> None:
        """It is on the disk."""
        self._eviction.lanes.forget(self._claimed)
        self._eviction.note_gone(self._gone)

    def undone(self) -> None:
        """It is not: what was to go waits as before."""
        self._eviction.lanes.release(self._claimed)

    def _decline_what_cannot_fit(self, rows: Sequence[NewRow]) -> None:
        """Before anything goes for it in vain."""
        cap = self._eviction.cap
        size = _size(rows) + EMPTY
        lesser = EMPTY + _size(
            [row for row in rows if row.waiting and row.columns.priority in LESSER]
        )
        if cap.never_fits(size, lesser):
            raise QueueFull(never=True)
        if rows and (size > cap.room or lesser > cap.lesser_room):
            raise QueueFull(never=False)

    def _fit(
        self, transaction: Transaction, priority: Priority, group: list[NewRow]
    ) -> list[NewRow]:
        """The events of one priority that fit, after what had to go for them."""
        eviction, coming = self._eviction, self._coming

        def over() -> int:
            return eviction.over(transaction, coming + _size(group))

        def excess() -> int:
            return eviction.excess(transaction, priority, coming + _size(group))

        if not group or excess() <= 0:
            return self._come(group)
        eviction.expire(transaction, over)
        if self._evicts:
            self._evict(transaction, excess, priority)
        elif excess() > 0:
            raise QueueFull(never=False)
        while group and excess() > 0:
            eviction.rows.turn_away(transaction, group.pop(0), EVICTED)
        return self._come(group)

    def _fit_dead(self, transaction: Transaction, group: list[NewRow]) -> list[NewRow]:
        """The dead letters that fit: they never drive out events."""
        eviction = self._eviction

        def excess() -> int:
            over = eviction.over(transaction, self._coming + _size(group))
            return max(over, eviction.dead_excess(transaction, _size(group)))

        if group and excess() > 0:
            eviction.expire(transaction, excess)
        over = eviction.over(transaction, self._coming + _size(group)) if group else 0
        if over > 0 and not self._evicts:
            raise QueueFull(never=False)
        while group and excess() > 0:
            eviction.rows.turn_away(transaction, group.pop(0), EXPIRED)
        return group

    def _come(self, group: list[NewRow]) -> list[NewRow]:
        self._coming += _size(group)
        return group

    def _evict(self, transaction: Transaction, excess: Excess, least: Priority) -> None:
        """Drop waiting events, none of them more important than ``least``."""
        for priority in reversed(BY_IMPORTANCE):
            if priority >= least:
                self._evict_from(transaction, excess, priority)

    def _evict_from(self, transaction: Transaction, excess: Excess, priority: Priority) -> None:
        eviction = self._eviction
        after = self._gone.get(priority, eviction.gone_up_to(priority))
        gapless = True
        while (need := excess()) > 0:
            oldest = eviction.oldest(transaction, priority, after, need)
            if not oldest:
                return
            after = oldest[-1][0]
            mine = eviction.lanes.claim(partial(iter, oldest))
            self._claimed += mine
            eviction.rows.leave(transaction, mine, EVICTED)
            gapless = gapless and len(mine) == len(oldest)
            if gapless:
                self._gone[priority] = after
            crash_point.reached("evict.middle")


def _of(rows: Sequence[NewRow], priority: Priority) -> list[NewRow]:
    return [row for row in rows if row.waiting and row.columns.priority == priority]


def _size(rows: Sequence[NewRow]) -> int:
    return sum(row.size for row in rows)


def _enough(rows: Sequence[tuple[Any, ...]], need: int) -> int:
    """How many of the rows, whose last column is their size, make up so many bytes."""
    for number, row in enumerate(rows, 1):
        need -= row[-1] + ROW_OVERHEAD
        if need <= 0:
            return number
    return len(rows)
