"""Rows in pages: so few and so short that reading or changing one page holds nobody up.

A page is read in one short transaction. A long one would pin the WAL, and the card would fill.
"""

import sqlite3
from dataclasses import dataclass

from agent.event import Event, RawMessage
from agent.queue import serializer
from agent.queue.serializer import DamagedRow

READY = 2  # upstream: a status below it waits for delivery
UNACKED = 2  # upstream: fetched by a consumer that died; the agent has none
DEAD = 9  # upstream's "ack_failed"
ROWS = 500
BYTES = 256 * 1024  # of events: what is deleted goes through the WAL, which is bounded
ID_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it lies in the file. ``reason``: why it is dead; ``written``: seconds since 1970."""

    id: int
    stream: str
    reason: str | None
    data: bytes
    written: float = 0.0

    @property
    def item(self) -> Event | RawMessage | None:
        """What was put; None if it is damaged."""
        try:
            return serializer.loads(self.data)
        except DamagedRow:
            return None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in their order. ``next``: the id after which to go on; None: there are no more."""

    rows: tuple[Row, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows: the waiting or the dead ones, and of them those that fit all that is set.

    ``upto``: the highest id, so that what arrives meanwhile is left alone.
    """

    dead: bool = False
    upto: int = ID_MAX
    stream: str | None = None
    name: str | None = None
    reason: str | None = None

    @property
    def everything(self) -> bool:
        """Whether it leaves out none of the waiting, or of the dead."""
        return self.stream is None and self.name is None and self.reason is None

    def takes(self, row: Row) -> bool:
        """Whether the row fits."""
        return (
            self.stream in (None, row.stream)
            and self.reason in (None, row.reason)
            and (self.name is None or self.name == getattr(row.item, "name", None))
        )


def read_page(
    connection: sqlite3.Connection, table: str, selection: Selection, after: int, limit: int = ROWS
) -> Page:
    """The next rows behind ``after`` that ``selection`` may take; ask it about each one."""
    status = f"status = {DEAD}" if selection.dead else f"status < {READY}"
    # A damaged page can turn a BLOB into TEXT that does not even decode, or into nothing.
    sql = (
        "SELECT _id, CAST(stream AS TEXT), CAST(reason AS TEXT), COALESCE(CAST(data AS BLOB), x''), "
        "COALESCE(CAST(timestamp AS REAL), 0.0) "
        f"FROM {table} WHERE {status} AND _id > ? AND _id <= ? ORDER BY _id"
    )
    rows: list[Row] = []
    size = 0
    cursor = connection.cursor()
    try:
        for values in cursor.execute(sql, (after, selection.upto)):
            row = Row(*values)
            rows.append(row)
            size += len(row.data)
            if len(rows) == limit or size >= BYTES:
                return Page(tuple(rows), row.id)
    finally:
        cursor.close()  # an open cursor would pin the WAL
    return Page(tuple(rows), None)
