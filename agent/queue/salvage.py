"""What can be read of a damaged file, or of one that was set aside, goes into the queue's file.

Page by page, and how far it is lies in the same transaction as the rows: a crash loses and repeats
nothing. Rows of a damaged file keep their ids, so that order and what names them stay right. Rows
of a file that was set aside come behind those that are there.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from agent import crash_point
from agent.event import Event, Priority, RawMessage
from agent.queue.days import DAMAGED, Days, place_of
from agent.queue.group_commit import Transaction
from agent.queue.ledger import Ledger, day_of
from agent.queue.pages import DEAD
from agent.queue.rows import HELD, Columns, NewRow, undamaged
from agent.queue.schema import TABLE
from agent.queue.wreck import QUEUE_ID, VALUE_MOST, Found, Wreck

PROGRESS = "salvage:"  # in meta, with the file's name
LAST_DAMAGE = "damage"  # in meta
ROWS, BYTES = 500, 256 * 1024  # of a page: what is written goes through the WAL, which is bounded
ACKED = 5  # upstream: delivered, and not removed yet
# Counted anew for the rows that were saved, or of the file itself.
OWN = {"received", "queued", "dead", QUEUE_ID}
KINDS = {"event_id", "mqtt", "transaction"}

_INSERT = (
    f"INSERT OR IGNORE INTO {TABLE} (_id, data, timestamp, status, stream, sender, priority, "
    "bytes, reason, sending, early) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """How far it is. ``after``: the id up to which all was taken over.

    ``events``: rows, dead letters included; ``damaged``: those of them that are dead letters now
    because their content is damaged. ``lost``: rows that are missing; None if nobody can tell,
    because the ledger cannot be read.
    """

    after: int = 0
    events: int = 0
    damaged: int = 0
    lost: int | None = None
    done: bool = False


class Salvage:
    """Takes over one file. Raises sqlite3.DatabaseError, StorageError; then it can go on later."""

    def __init__(
        self,
        *,
        wreck: Wreck,
        target: sqlite3.Connection,
        name: str,
        same: bool,
        days: Days,
        now_us: int,
    ) -> None:
        """``same``: the file was this queue's own until now, so that its ids hold."""
        self._wreck = wreck
        self._target = target
        self._name = name
        self._same = same
        self._days = days
        self._now_us = now_us
        self._counters = wreck.counters
        self._ledger_days = wreck.table("ledger_days")[0]

    def run(self, describe: Callable[[Saved], Mapping[str, Any] | None]) -> Saved:
        """Take over what is not yet. ``describe``: what is kept as the last damage, if it is one."""
        saved = self._progress()
        if saved.done:
            return saved
        for page in _pages(self._wreck.rows(saved.after)):
            saved = self._take_page(page, saved)
            crash_point.reached("salvage.middle")
        return self._take_rest(saved, describe)

    def _progress(self) -> Saved:
        sql = "SELECT value FROM meta WHERE key = ?"
        found = self._target.execute(sql, (PROGRESS + self._name,)).fetchone()
        return Saved(**json.loads(found[0])) if found else Saved()

    def _take_page(self, page: Sequence[Found], saved: Saved) -> Saved:
        with _transaction(self._target, self._days) as transaction:
            for found in page:
                saved = self._take(transaction, found, saved)
            after = max((found.id for found in page if found.id is not None), default=0)
            saved = replace(saved, after=max(saved.after, after))
            self._keep(PROGRESS + self._name, asdict(saved))
        return saved

    def _take(self, transaction: Transaction, found: Found, saved: Saved) -> Saved:
        if found.status == ACKED:
            return saved
        item = undamaged(found.data)
        row = _row(found, item)
        # A plain SQLiteAckQueue put it: the ledger does not know of it yet.
        foreign = not found.stream and found.status != DEAD
        damaged = item is None and not foreign
        if self._insert(found, row, in_order=self._same and not foreign):
            self._count(transaction, row, new=foreign, buried=damaged)
        if foreign:
            return saved
        return replace(saved, events=saved.events + 1, damaged=saved.damaged + damaged)

    def _insert(self, found: Found, row: NewRow, *, in_order: bool) -> bool:
        """Whether it was not there yet."""
        sending = int(found.sending != 0 and row.waiting)
        early = found.early
        if not in_order and row.dated and row.waiting:
            early = row.dated.claimed_s  # it comes behind what may be younger
        columns = (*row.columns, sending, early)
        row_id = found.id if self._same else None
        if self._target.execute(_INSERT, (row_id, *columns)).rowcount:
            return True
        there = f"SELECT CAST(data AS BLOB) FROM {TABLE} WHERE _id = ?"
        if self._target.execute(there, (row_id,)).fetchone() == (found.data,):
            return False
        self._target.execute(_INSERT, (None, *columns))
        return True

    def _count(self, transaction: Transaction, row: NewRow, *, new: bool, buried: bool) -> None:
        transaction.changes.update({"received": 1, "queued" if row.waiting else "dead": 1})
        transaction.changes.update(row.held)
        new = new or not self._ledger_days  # else the days that are taken over have counted it
        if new:
            transaction.days[(*row.place, "received")] += 1
        if not row.waiting and (new or buried):
            transaction.days[(*row.place, "dead")] += 1

    # -- what lies beside the rows ----------------------------------------------------------

    def _take_rest(
        self, saved: Saved, describe: Callable[[Saved], Mapping[str, Any] | None]
    ) -> Saved:
        with _transaction(self._target, self._days) as transaction:
            saved = replace(saved, lost=self._take_ledger(transaction, saved), done=True)
            self._take_days(transaction, saved.lost or 0)
            self._make_room_for_boots()
            for table, take in self._beside().items():
                for row in self._wreck.table(table)[0]:
                    take(row)
            self._raise_sequence()
            if (damage := describe(saved)) is not None:
                self._keep(LAST_DAMAGE, damage)
            self._keep(PROGRESS + self._name, asdict(saved))
        return saved

    def _take_ledger(self, transaction: Transaction, saved: Saved) -> int | None:
        """Let the figures go on; how many rows are missing, as far as can be told."""
        old, changes = self._counters, transaction.changes
        if old is None or (saved.events and not old.get("received")):
            changes["noted.ledger_restarted"] += 1
            return None
        missing = old.get("queued", 0) + old.get("dead", 0) - saved.events
        changes.update(
            {
                counter: value
                for counter, value in old.items()
                if counter not in OWN and not counter.startswith(HELD)
            }
        )
        # More than the ledger knew of can be there, if the file and the WAL do not fit together.
        changes["received"] += old.get("received", 0) - saved.events + max(0, -missing)
        changes["dropped.damaged"] += max(0, missing)
        return max(0, missing)

    def _take_days(self, transaction: Transaction, lost: int) -> None:
        for row in self._ledger_days:
            if _has_types(row, str, str, str, str, int) and abs(row[-1]) < VALUE_MOST:
                day, stream, event, counter, value = row
                transaction.days[day, stream, event, counter] += value
        if lost:
            transaction.days[day_of(self._now_us), "?", DAMAGED, "dropped.damaged"] += lost

    def _beside(self) -> Mapping[str, Callable[[tuple[Any, ...]], None]]:
        return {
            "source_state": self._take_state,
            "sessions": self._take_session,
            "seen": _Seen(self._target).take,
            "boots": self._take_boot,
        }

    def _take_state(self, row: tuple[Any, ...]) -> None:
        if _has_types(row, str, str, str):
            self._target.execute("INSERT OR IGNORE INTO source_state VALUES (?, ?, ?)", row)

    def _take_session(self, row: tuple[Any, ...]) -> None:
        if _has_types(row, str, str):
            sql = (
                "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (client) DO UPDATE "
                "SET state = excluded.state WHERE excluded.state > state"
            )
            self._target.execute(sql, row)

    def _make_room_for_boots(self) -> None:
        """Their numbers count from 1 in each new file: those that came before get the smaller."""
        boots = self._wreck.table("boots")[0]
        numbers = [row[1] for row in boots if _has_types(row, str, int, str)]
        if not self._same:
            sql = "UPDATE boots SET number = number + ?"
            self._target.execute(sql, (max(numbers, default=0),))

    def _take_boot(self, row: tuple[Any, ...]) -> None:
        if _has_types(row, str, int, str) and abs(row[1]) < VALUE_MOST:
            self._target.execute("INSERT OR IGNORE INTO boots VALUES (?, ?, ?)", row)

    def _raise_sequence(self) -> None:
        """No id may name two events: files name rows that the process died of."""
        seq = self._wreck.sequence
        if seq is None or not self._same:
            return
        sql = "UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?"
        if not self._target.execute(sql, (seq, TABLE)).rowcount:
            self._target.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (TABLE, seq))

    def _keep(self, key: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False)
        self._target.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))


class _Seen:
    """Puts what was seen in front of nothing and behind everything: numbers begin anew."""

    def __init__(self, target: sqlite3.Connection) -> None:
        self._target = target
        self._next: Counter[str] = Counter()

    def take(self, row: tuple[Any, ...]) -> None:
        if not _has_types(row, str, int, str, str) or row[0] not in KINDS:
            return
        kind, _, key, digest = row
        if kind not in self._next:
            sql = "SELECT COALESCE(MAX(number), 0) FROM seen WHERE kind = ?"
            self._next[kind] = self._target.execute(sql, (kind,)).fetchone()[0]
        self._next[kind] += 1
        entry = (kind, self._next[kind], key, digest)
        self._target.execute("INSERT INTO seen VALUES (?, ?, ?, ?)", entry)


@contextmanager
def _transaction(connection: sqlite3.Connection, days: Days) -> Iterator[Transaction]:
    """What moves rows, with the ledger: all of it or nothing."""
    transaction = Transaction(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield transaction
        Ledger.write(connection, transaction.changes)
        days.write(connection, transaction.days)
        connection.commit()
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def _row(found: Found, item: Event | RawMessage | None) -> NewRow:
    """The row with the columns of a new one: its own may be damaged where its content is not."""
    if item is None:
        return _damaged(found)
    row = NewRow.of(item)
    columns = row.columns._replace(data=found.data, bytes=len(found.data))
    # What is no status at all is a damaged one: rather deliver it.
    if found.status == DEAD and row.waiting:
        columns = columns._replace(status=DEAD, reason=found.reason or "unknown")
    return replace(row, columns=columns)


def _damaged(found: Found) -> NewRow:
    stream, size = found.stream or "?", len(found.data)
    written = found.written if 0 <= found.written < VALUE_MOST / 1e6 else 0.0
    columns = Columns(found.data, written, DEAD, stream, "", Priority.NORMAL, size, "damaged")
    return NewRow(columns, place_of(None, stream, written))


def _pages(rows: Iterator[Found]) -> Iterator[list[Found]]:
    while first := next(rows, None):
        page, size = [], 0
        for found in chain([first], rows):
            page.append(found)
            size += len(found.data)
            if len(page) == ROWS or size >= BYTES:
                break
        yield page


def _has_types(row: Sequence[Any], *types: type) -> bool:
    """Whether the row is what it should be: damage may have put anything there."""
    return [type(value) for value in row] == list(types)
