"""The rows of events inside a transaction: each way to move one, counted with it.

Only here a row is written, changed or deleted, so that no way exists that the ledger and its day
do not hear of.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.event import Event, Priority, RawMessage
from agent.queue import schema, serializer
from agent.queue.days import CLIENT, Place, place_of
from agent.queue.group_commit import Transaction
from agent.queue.lanes import Lane
from agent.queue.ledger import Sent
from agent.queue.order import Dated, Order
from agent.queue.pages import DEAD, READY, Row
from agent.queue.serializer import DamagedRow

PURGED = "dropped.purged"
UNCERTAIN = "dropped.uncertain"
EVICTED = "dropped.evicted"
EXPIRED = "dropped.expired"
# What is in the file, counted with the ledger: a start need not look at every row.
WAITING, BYTES, DEAD_BYTES = "waiting:", "bytes:", "bytes:dead"
HELD = (WAITING, BYTES)
ROW_OVERHEAD = 96  # bytes a row costs beside its data: columns, cell, page

# Read so that damage raises nothing.
_CONTENT = "CAST(data AS BLOB), CAST(stream AS TEXT), CAST(timestamp AS REAL)"


class Columns(NamedTuple):
    """What is written of a row, in the order of the table and of `schema.FILLED`."""

    data: bytes
    written: float
    status: int
    stream: str
    sender: str
    priority: int
    bytes: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that is not in the file yet.

    ``place``: where its day counts it. ``dated``: when it happened; None if nobody knows.
    """

    columns: Columns
    place: Place
    dated: Dated | None = None

    @classmethod
    def of(cls, item: Event | RawMessage) -> "NewRow":
        """The row of an event, or of a message that is to be a dead letter."""
        data = serializer.dumps(item)
        written = item.stamp.wall_us / 1e6
        place = place_of(item)
        if isinstance(item, RawMessage):
            dead = Columns(data, written, DEAD, "?", "", Priority.NORMAL, len(data), item.reason)
            return cls(dead, place)  # it never waits, so its order does not matter
        sender = hashlib.blake2b(item.sender.key.encode(), digest_size=8).hexdigest()
        lane = (item.stream, sender, int(item.priority))
        return cls(Columns(data, written, 0, *lane, len(data), None), place, Dated.of(item))

    @property
    def lane(self) -> Lane:
        """Where it waits, if it is ``waiting``."""
        return self.columns.stream, self.columns.priority

    @property
    def size(self) -> int:
        """Bytes that it takes of the file, roughly."""
        return self.columns.bytes + ROW_OVERHEAD

    @property
    def held(self) -> Mapping[str, int]:
        """As what it counts while it is in the file."""
        stream, priority, length = self.columns.stream, self.columns.priority, self.columns.bytes
        return held(stream, priority, length) if self.waiting else {DEAD_BYTES: self.size}

    @property
    def waiting(self) -> bool:
        """Whether it is to be delivered; else it is a dead letter."""
        return self.columns.status < READY


class Rows:
    """The table of events. Every method works inside the caller's transaction."""

    def __init__(self, table: str, order: Order) -> None:
        self._table = table
        self._order = order

    def insert(self, transaction: Transaction, rows: Sequence[NewRow]) -> None:
        """Add rows behind all others."""
        transaction.connection.executemany(
            f"INSERT INTO {self._table} "
            "(data, timestamp, status, stream, sender, priority, bytes, reason, early) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*row.columns, self._order.early(row.dated) if row.dated else None) for row in rows],
        )
        for row in rows:
            _count_in(transaction, row)

    def adopt(
        self, transaction: Transaction, foreign: Iterable[tuple[int, bytes]], *, now: float
    ) -> None:
        """Give rows that a plain SQLiteAckQueue put what it does not know of."""
        sql = f"UPDATE {self._table} SET {schema.FILLED}, early = ? WHERE _id = ?"
        for row_id, data in foreign:
            row = _foreign(data, now)
            early = row.dated.claimed_s if row.dated else None  # nobody knows in what order
            transaction.connection.execute(sql, (*row.columns, early, row_id))
            _count_in(transaction, row)

    def mark_sending(self, transaction: Transaction, ids: Sequence[int], value: int) -> None:
        """Set or take off the mark of events that are being sent."""
        sql = f"UPDATE {self._table} SET sending = {value} WHERE _id = ? AND status < {READY}"
        transaction.connection.executemany(sql, [(row_id,) for row_id in ids])

    def send(self, transaction: Transaction, ids: Sequence[int], sent: Sequence[Sent]) -> None:
        """Delete what was delivered, counted as what it left."""
        sql = f"DELETE FROM {self._table} WHERE _id = ?"
        deleted = 0
        for row_id, one in zip(ids, sent, strict=True):
            there = self._held(transaction, row_id)
            if there is None:
                continue
            transaction.connection.execute(sql, (row_id,))
            transaction.changes.subtract(there)
            deleted += 1
            transaction.days[one.day, one.stream, one.name, "sent"] += 1
            if one.client:
                transaction.days[one.day, one.stream, one.client, CLIENT] += 1
        transaction.changes.update({"sent": deleted, "queued": -deleted})

    def turn_away(self, transaction: Transaction, row: NewRow, counter: str) -> None:
        """Count a row that came and found no room, as if it had gone at once."""
        transaction.changes.update({"received": 1, counter: 1})
        transaction.days[(*row.place, "received")] += 1
        transaction.days[(*row.place, counter)] += 1

    def leave(self, transaction: Transaction, ids: Sequence[int], counter: str) -> None:
        """Delete waiting rows, counted on their days as ``counter``."""
        self._change(transaction, f"DELETE FROM {self._table}", ids, counter)

    def bury(self, transaction: Transaction, ids: Sequence[int], reason: str) -> None:
        """Make dead letters of waiting rows."""
        change = f"UPDATE {self._table} SET status = {DEAD}, sending = 0, reason = ?"
        transaction.changes[DEAD_BYTES] += self._change(transaction, change, ids, "dead", reason)

    def expire(self, transaction: Transaction, ids: Sequence[int]) -> None:
        """Drop dead letters for want of room."""
        read = f"SELECT {_CONTENT}, bytes FROM {self._table} WHERE _id = ? AND status = {DEAD}"
        for row_id in ids:
            data, stream, written, size = transaction.connection.execute(read, (row_id,)).fetchone()
            transaction.connection.execute(f"DELETE FROM {self._table} WHERE _id = ?", (row_id,))
            place = place_of(undamaged(data), stream, written or 0.0)
            transaction.changes.update({EXPIRED: 1, "dead": -1})
            transaction.days.update({(*place, EXPIRED): 1, (*place, "dead"): -1})
            transaction.changes[DEAD_BYTES] -= size + ROW_OVERHEAD

    def revive(self, transaction: Transaction, events: Sequence[tuple[int, Event]]) -> None:
        """Mark dead rows as waiting, with the columns of a new one: theirs may be damaged.

        Their order among the others is still that of when they came: ``early`` stays.
        """
        sql = f"UPDATE {self._table} SET {schema.FILLED}, sending = 0 WHERE _id = ? AND status = {DEAD}"
        revived = 0
        for row_id, event in events:
            row, there = NewRow.of(event), self._held(transaction, row_id)
            if transaction.connection.execute(sql, (*row.columns, row_id)).rowcount and there:
                revived += 1
                transaction.changes.subtract(there)
                transaction.changes.update(row.held)
                transaction.days[(*row.place, "dead")] -= 1
        transaction.changes.update({"queued": revived, "dead": -revived})

    def purge(
        self, transaction: Transaction, rows: Sequence[tuple[int, Place]], *, dead: bool
    ) -> int:
        """Delete rows by hand, waiting or dead ones; how many there were."""
        counter, status = ("dead", f"= {DEAD}") if dead else ("queued", f"< {READY}")
        sql = f"DELETE FROM {self._table} WHERE _id = ? AND status {status}"
        dropped = 0
        for row_id, place in rows:
            there = self._held(transaction, row_id)
            if transaction.connection.execute(sql, (row_id,)).rowcount and there:
                dropped += 1
                transaction.changes.subtract(there)
                transaction.days[(*place, PURGED)] += 1
                transaction.days[(*place, "dead")] -= dead
        transaction.changes.update({PURGED: dropped, counter: -dropped})
        return dropped

    def _change(
        self,
        transaction: Transaction,
        change: str,
        ids: Sequence[int],
        counter: str,
        *before: Any,
    ) -> int:
        """Change waiting rows one by one, counted on their days; the bytes that they took."""
        # Not by RETURNING: SQLite knows that only from 3.35.
        read = (
            f"SELECT {_CONTENT}, priority, bytes FROM {self._table} "
            f"WHERE _id = ? AND status < {READY}"
        )
        changed = size = 0
        for row_id in ids:
            found = transaction.connection.execute(read, (row_id,)).fetchone()
            if found is None:
                continue
            transaction.connection.execute(f"{change} WHERE _id = ?", (*before, row_id))
            changed += 1
            data, stream, written, priority, length = found
            place = place_of(undamaged(data), stream, written or 0.0)
            transaction.days[(*place, counter)] += 1
            transaction.changes.subtract(held(stream, priority, length))
            size += length + ROW_OVERHEAD
        transaction.changes.update({counter: changed, "queued": -changed})
        return size

    def _held(self, transaction: Transaction, row_id: int) -> Mapping[str, int] | None:
        """As what the row counts; None if it is not there."""
        sql = (
            f"SELECT status, CAST(stream AS TEXT), priority, bytes FROM {self._table} WHERE _id = ?"
        )
        found = transaction.connection.execute(sql, (row_id,)).fetchone()
        if found is None:
            return None
        status, stream, priority, length = found
        dead = {DEAD_BYTES: length + ROW_OVERHEAD}
        return dead if status >= READY else held(stream, priority, length)


def held(stream: str, priority: int, length: int, number: int = 1) -> dict[str, int]:
    """As what waiting rows count while they are in the file: how many, and their bytes."""
    size = length + number * ROW_OVERHEAD
    return {f"{WAITING}{priority}:{stream}": number, f"{BYTES}{priority}": size}


def recount(connection: sqlite3.Connection, table: str) -> Counter[str]:
    """As what all rows count: a look at each of them."""
    sql = (
        "SELECT status, CAST(stream AS TEXT), priority, COUNT(*), SUM(bytes) "
        f"FROM {table} GROUP BY status, stream, priority"
    )
    found: Counter[str] = Counter()
    for status, stream, priority, number, length in connection.execute(sql):
        dead = {DEAD_BYTES: length + number * ROW_OVERHEAD}
        found.update(dead if status >= READY else held(stream, priority, length, number))
    return found


def waiting_in(counters: Mapping[str, int]) -> dict[Lane, int]:
    """How many rows wait in each lane, by what is counted."""
    lanes = (
        (counter.removeprefix(WAITING).partition(":"), number)
        for counter, number in counters.items()
        if counter.startswith(WAITING)
    )
    return {(stream, int(priority)): number for (priority, _, stream), number in lanes}


def placed(rows: Iterable[Row]) -> list[tuple[int, Place]]:
    """The ids of rows, and where their days count them."""
    return [(row.id, place_of(row.item, row.stream, row.written)) for row in rows]


def undamaged(data: bytes | None) -> Event | RawMessage | None:
    """What was put; None if it is damaged."""
    try:
        return serializer.loads(data or b"")
    except DamagedRow:
        return None


def _foreign(data: bytes, now: float) -> NewRow:
    try:
        return NewRow.of(serializer.loads(data))
    except DamagedRow:
        damaged = Columns(data, now, DEAD, "?", "", Priority.NORMAL, len(data), "damaged")
        return NewRow(damaged, place_of(None, "?", now))


def _count_in(transaction: Transaction, row: NewRow) -> None:
    """Count what is new in the file, in the ledger and on its day."""
    transaction.changes.update({"received": 1, "queued" if row.waiting else "dead": 1})
    transaction.days[(*row.place, "received")] += 1
    if not row.waiting:
        transaction.days[(*row.place, "dead")] += 1
    transaction.changes.update(row.held)
