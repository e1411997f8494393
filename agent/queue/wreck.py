"""A file that may be damaged, read as far as SQLite can: nothing of it raises, nothing hangs.

What lies behind an unreadable page is found by searching for the next id that can be read.
"""

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from agent.queue.connection import text
from agent.queue.failures import damaged, unusable
from agent.queue.ledger import books_of
from agent.queue.schema import TABLE

ID_MOST = 2**60  # no queue comes near: a greater id is damage, and would end AUTOINCREMENT
VALUE_MOST = 2**53
QUEUE_ID = (
    "queue_id"  # in the ledger, beside `queued`: each commit writes that page, so each WAL tells
)
ROWS_MOST = 200_000  # of a small table: pages that point in a circle would give rows for ever
PATIENCE = 4096  # ids that are tried one by one; then in growing steps
WAL_HEADER = 32  # bytes; a WAL of no more holds nothing
LEAST_PAGE, PAGE_MOST = 512, 65536
ROW_LEAST = 16  # bytes that a row takes at least
WALKS = 4  # times that all rows may come, before pages are taken to point in a circle
# In a table without rowid, and so by its key.
KEYS = {
    "ledger": "counter",
    "ledger_days": "day, stream, event, counter",
    "source_state": "source, key",
    "seen": "kind, number",
    "sessions": "client",
    "boots": "boot_id",
    "meta": "key",
}
# What damage makes SQLite and Python's part of it raise; the names of columns may not even decode.
UNREADABLE = (sqlite3.DatabaseError, OverflowError, ValueError)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A row as it lies in the damaged file; ``id`` is None if its own is damaged."""

    id: int | None
    data: bytes
    written: float
    status: int
    stream: str
    sending: int
    reason: str | None
    early: float | None


class Wreck:
    """The file, read only. The WAL beside it counts, unless it is that of another file."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError."""
        _pad(path)
        self._connection = _best(path)
        wal = path.with_name(f"{path.name}-wal")
        self._bytes = sum(each.stat().st_size for each in (path, wal) if each.exists())

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def rows(self, after: int) -> Iterator[Found]:
        """Every row behind ``after`` that can be read, by rising id."""
        columns = self._columns()
        if not {"_id", "data"} <= columns:
            return
        most = self._bytes // ROW_LEAST
        yield from _Walk(self._connection, _select(columns), after=after, most=most)

    def table(self, name: str) -> tuple[list[tuple[Any, ...]], bool]:
        """What can be read of a small table from both its ends, and whether that is all."""
        found: dict[tuple[Any, ...], None] = {}
        for key in (KEYS[name], ", ".join(f"{c} DESC" for c in KEYS[name].split(", "))):
            sql = f"SELECT * FROM {name} ORDER BY {key} LIMIT {ROWS_MOST}"
            try:
                for row in self._connection.execute(sql):
                    found[row] = None
            except UNREADABLE as error:
                expect_damage(error)
            else:
                return list(found), True
        return list(found), False

    @property
    def counters(self) -> dict[str, int] | None:
        """The ledger; None if it cannot be read, or does not balance."""
        return trusted(self.table("ledger"))

    @property
    def sequence(self) -> int | None:
        """The highest id so far; None if it cannot be read."""
        try:
            sql = "SELECT seq FROM sqlite_sequence WHERE name = ?"
            found = self._connection.execute(sql, (TABLE,)).fetchone()
        except UNREADABLE as error:
            expect_damage(error)
            return None
        seq = found[0] if found else None
        return seq if isinstance(seq, int) and 0 <= seq < ID_MOST else None

    def _columns(self) -> set[str]:
        try:
            found = self._connection.execute(f"PRAGMA table_info({TABLE})")
            return {row[1] for row in found}
        except UNREADABLE as error:
            expect_damage(error)
            return set()


class _Walk:
    """The way through the rows, around what cannot be read.

    Pages that point to the wrong place let rows come out of turn, or for ever: what came too early
    is known by its content when its turn comes, and a circle is left by a search for the next id.
    """

    def __init__(self, connection: sqlite3.Connection, sql: str, *, after: int, most: int) -> None:
        """``most``: rows that there can be, at most."""
        self._connection = connection
        self._sql = sql
        self._after = after
        self._left = WALKS * most
        self._ids = array("q")  # of what came, rising
        self._sums = array("L")  # likewise the checksums of the content
        self._early: dict[int, int] = {}  # checksums of what came too early, by id

    def __iter__(self) -> Iterator[Found]:
        broken = True
        while broken and self._left > 0:
            broken = yield from self._until_damage()
            if broken:
                row = self._next_readable(self._last + 1)
                if row is None or not self._take(row[0], crc32(row[1])):
                    return
                yield from self._came(row)

    @property
    def _last(self) -> int:
        return self._ids[-1] if self._ids else self._after

    def _until_damage(self) -> Generator[Found, None, bool]:
        """Whether there is damage at its end. The row before it may be missing: Python reads ahead."""
        try:
            for row in self._connection.execute(self._sql, (self._last + 1,)):
                if self._left <= 0 or not self._take(row[0], crc32(row[1])):
                    return True
                yield from self._came(row)
        except UNREADABLE as error:
            expect_damage(error)
            return True
        return False

    def _came(self, row: Row) -> Iterator[Found]:
        """The row, unless it came too early already; without its id if another row has that."""
        known = self._early.pop(row[0], None)
        if known is None:
            yield Found(*row)
        elif known != crc32(row[1]):
            yield Found(None, *row[1:])

    def _take(self, row_id: int, total: int) -> bool:
        """Note a row in its place; False: this way leads back to where it was already."""
        self._left -= 1
        if row_id <= self._after:
            return False
        if row_id <= self._last:
            place = bisect_left(self._ids, row_id)
            if self._ids[place] == row_id:
                return False
            # What came before and has a greater id came too early.
            self._early.update(zip(self._ids[place:], self._sums[place:], strict=True))
            del self._ids[place:], self._sums[place:]
        self._ids.append(row_id)
        self._sums.append(total)
        return True

    def _next_readable(self, start: int) -> Row | None:
        """The first row from there on that can be read; None at the end."""
        for tried in range(start, start + PATIENCE):
            readable, row = self._try(tried)
            if readable:
                return row
        return self._leap(start + PATIENCE - 1)

    def _leap(self, unreadable: int) -> Row | None:
        """The row behind a large damage, which is taken to have no readable parts in it."""
        step, readable = 1, False
        while not readable and unreadable + step < ID_MOST:
            step *= 2
            readable, _ = self._try(unreadable + step)
        if not readable:
            return None
        low, high = unreadable + step // 2, unreadable + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._try(middle)[0] else (middle, high)
        return self._try(high)[1]

    def _try(self, start: int) -> tuple[bool, Row | None]:
        """Whether a row can be read from there on, and the first one; None: there is none."""
        try:
            row = self._connection.execute(f"{self._sql} LIMIT 1", (start,)).fetchone()
        except UNREADABLE as error:
            expect_damage(error)
            return False, None
        if row is None:
            return True, None
        return (True, row) if row[0] >= start else (False, None)


def trusted(read: tuple[Sequence[tuple[Any, ...]], bool]) -> dict[str, int] | None:
    """The counters, if all of them can be read and balance."""
    rows, complete = read
    if not complete or not all(isinstance(n, str) and isinstance(v, int) for n, v in rows):
        return None
    counters = dict(rows)
    summed = {
        counter: value
        for counter, value in counters.items()
        if counter in ("received", "sent", "queued", "dead") or counter.startswith("dropped.")
    }
    sane = all(0 <= value < VALUE_MOST for value in summed.values())
    return counters if sane and books_of(summed).balanced else None


def mixed_up(path: Path) -> bool:
    """Whether the WAL beside a file is another file's: used once, it would ruin this one."""
    if not has_wal(path):
        return False
    with suppress(*UNREADABLE), closing(read_only(path)) as whole:
        if _belongs(path, whole):
            return False
        return _checked(whole) != "ok"
    return False


def has_wal(path: Path) -> bool:
    """Whether there is a WAL with anything in it."""
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size > WAL_HEADER


def read_only(path: Path, *, wal: bool = True) -> sqlite3.Connection:
    """A connection that changes nothing, not even at its end. Raises sqlite3.DatabaseError."""
    mode = "mode=ro" if wal else "immutable=1"  # SQLite then looks at no WAL
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=10)
    connection.text_factory = text
    with suppress(*UNREADABLE):
        # Else a file that was cut off, or one damaged entry of the schema, hides everything.
        connection.execute("PRAGMA writable_schema = ON")
    return connection


def _best(path: Path) -> sqlite3.Connection:
    """A connection with the WAL, or without it if that is another file's."""
    if not has_wal(path):
        return read_only(path, wal=False)
    whole = read_only(path)
    try:
        if not _belongs(path, whole):
            with suppress(*UNREADABLE):
                return _checked_alone(path, whole)
    except BaseException:
        whole.close()
        raise
    return whole


def _checked_alone(path: Path, whole: sqlite3.Connection) -> sqlite3.Connection:
    """The file without its WAL if it is sound so, else with it."""
    alone = read_only(path, wal=False)
    try:
        sound = _checked(alone) == "ok"
    except UNREADABLE:
        sound = False
    (whole if sound else alone).close()
    return alone if sound else whole


def _belongs(path: Path, whole: sqlite3.Connection) -> bool:
    """Whether the WAL seems to be that of the file: nothing but this can be asked of it."""
    with closing(read_only(path, wal=False)) as alone:
        before, after = _marks(alone), _marks(whole)
    if before is None:
        return True  # the file alone says nothing, as when it is young
    if after is None:
        return False
    if before[0] and after[0]:
        return before[0] == after[0]
    return all(then <= now for then, now in zip(before[1:], after[1:], strict=True))


def _marks(connection: sqlite3.Connection) -> tuple[int, int, int] | None:
    """The file's own number (0: it has none), and two figures that only ever grow."""
    sql = "SELECT value FROM ledger WHERE counter = ?"
    sequence = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    asked = ((sql, QUEUE_ID), (sql, "received"), (sequence, TABLE))
    try:
        found = [connection.execute(query, (value,)).fetchone() for query, value in asked]
    except UNREADABLE as error:
        expect_damage(error)
        return None
    own, received, seq = (row[0] if row and isinstance(row[0], int) else 0 for row in found)
    return own, received, seq


def _checked(connection: sqlite3.Connection) -> str:
    connection.execute("PRAGMA writable_schema = OFF")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    return str(found[0]) if found else "nothing"


def _pad(path: Path) -> None:
    """Give a file that was cut off within its first page one: else SQLite looks at no WAL."""
    page = 4096
    if has_wal(path) and path.stat().st_size < page:
        with path.with_name(f"{path.name}-wal").open("rb") as file:
            page = int.from_bytes(file.read(12)[8:], "big")
        if LEAST_PAGE <= page <= PAGE_MOST and path.stat().st_size < page:
            with path.open("r+b") as file:
                file.truncate(page)


def _select(columns: Collection[str]) -> str:
    """What is read of a row, so that no value has a type that nobody expects."""
    wanted = {
        "data": "COALESCE(CAST(data AS BLOB), x'')",
        "timestamp": "COALESCE(CAST(timestamp AS REAL), 0.0)",
        "status": "COALESCE(CAST(status AS INTEGER), 0)",
        "stream": "COALESCE(CAST(stream AS TEXT), '')",
        "sending": "COALESCE(CAST(sending AS INTEGER), 0)",
        "reason": "CAST(reason AS TEXT)",
        "early": "CAST(early AS REAL)",
    }
    missing = {"early": "NULL"}  # in a file of an older version
    listed = [sql if name in columns else missing.get(name, "0") for name, sql in wanted.items()]
    # Not indexed: an index may be damaged where the rows are not.
    return f"SELECT _id, {', '.join(listed)} FROM {TABLE} NOT INDEXED WHERE _id >= ? ORDER BY _id"


def expect_damage(error: Exception) -> None:
    """Raises StorageError if it is not about what lies in the file."""
    if isinstance(error, sqlite3.DatabaseError) and not damaged(error):
        raise unusable(error) from error
