"""A look into the queue's file beside the daemon, or without it: read-only, in short reads."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.event import BootRow, Event, Stamp
from agent.queue.days import KEPT, DayRow, Near, limits, read_days
from agent.queue.event_queue import FILE_NAME
from agent.queue.ledger import Books, books_of
from agent.queue.order import Dated, candidates, dated, dated_row
from agent.queue.pages import ID_MAX, Row, Selection, read_page
from agent.queue.schema import TABLE


class CannotRead(Exception):  # noqa: N818 - named after what happened
    """The file is not there, not readable for this user, or no queue."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the file says: the books, its bytes in use, the event that waits first, the boots.

    ``candidates``: when the waiting events happened of which one is the oldest. ``alive``: the
    stamp of the last write.
    """

    books: Books
    used_bytes: int
    oldest: Event | None
    boots: tuple[BootRow, ...] = ()
    candidates: tuple[Dated, ...] = ()
    alive: Stamp | None = None


class Reader:
    """Reads what others may change meanwhile; each answer is of its own moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def books(self) -> Books:
        """The ledger."""
        return books_of(dict(self._connection.execute("SELECT counter, value FROM ledger")))

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @property
    def newest_id(self) -> int:
        """The highest id so far; events that arrive later have higher ones."""
        found = self._connection.execute(f"SELECT MAX(_id) FROM {TABLE}").fetchone()[0]
        return int(found or 0)

    @property
    def oldest(self) -> Event | None:
        """The event that waits first; None too if its row is damaged."""
        rows = read_page(self._connection, TABLE, Selection(), 0, limit=1).rows
        item = rows[0].item if rows else None
        return item if isinstance(item, Event) else None

    @property
    def oldest_candidates(self) -> tuple[Dated, ...]:
        """When the waiting events happened of which one is the oldest; as the daemon says."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return dated(candidates(self._connection, TABLE, version=version), self._dated)

    def _dated(self, row_id: int) -> Dated | None:
        sql = f"SELECT CAST(data AS BLOB) FROM {TABLE} WHERE _id = ?"
        found = self._connection.execute(sql, (row_id,)).fetchone()
        return dated_row(found[0]) if found else None

    @property
    def boots(self) -> tuple[BootRow, ...]:
        """What is known of the newest boots, in their order."""
        sql = "SELECT boot_id, number, state FROM boots ORDER BY number"
        return tuple(BootRow(*row) for row in self._connection.execute(sql))

    def rows(self, selection: Selection) -> Iterator[Row]:
        """The selected rows by rising id, a page at a time."""
        after: int | None = 0
        while after is not None:
            page = read_page(self._connection, TABLE, selection, after)
            yield from (row for row in page.rows if selection.takes(row))
            after = page.next

    def days(self, *, last: int = KEPT, stream: str | None = None) -> list[DayRow]:
        """The ledger of the newest days, by day, stream and event."""
        return read_days(self._connection, last=last, stream=stream)

    def limits(self) -> list[Near]:
        """Where each stream stands; ``event_names`` as if every one were an app stream."""
        return limits(self._connection)

    def count(self, selection: Selection) -> int:
        """How many rows are selected."""
        if selection.everything and selection.upto == ID_MAX:
            books = self.books
            return books.dead if selection.dead else books.queued
        return sum(1 for _ in self.rows(selection))


@contextmanager
def reading(directory: Path) -> Iterator[Reader]:
    """Read the queue of a state directory without changing it. Raises CannotRead."""
    path = directory / FILE_NAME
    try:
        path.stat()
        connection = _read_only(path)
    except FileNotFoundError:
        raise CannotRead(f"cannot read the queue: found no {path}") from None
    except (sqlite3.Error, OSError) as error:
        raise _unreadable(path, error) from error
    try:
        yield Reader(connection)
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    finally:
        connection.close()


def read_snapshot(directory: Path) -> Snapshot:
    """The figures of a state directory. Raises CannotRead."""
    with reading(directory) as reader:
        return Snapshot(
            books=reader.books,
            used_bytes=reader.used_bytes,
            oldest=reader.oldest,
            boots=reader.boots,
            candidates=reader.oldest_candidates,
            alive=_last_write(directory),
        )


def _last_write(directory: Path) -> Stamp:
    """When the file was last written, as the wall clock showed it then."""
    files = [directory / FILE_NAME, directory / f"{FILE_NAME}-wal"]
    found = []
    for path in files:
        with suppress(FileNotFoundError):  # the WAL is only there while it is needed
            found.append(path.stat())
    # Who only reads may leave an empty WAL, with the time at which it looked.
    newest_ns = max((each.st_mtime_ns for each in found if each.st_size), default=0)
    return Stamp(newest_ns // 1000, 0, "", trusted=False)


def owner(directory: Path) -> str:
    """The user who may; a dynamic user has no name while its service is stopped."""
    try:
        return f"the user {directory.owner()}, who owns it"
    except (KeyError, OSError):
        return "the service's own user"


def _unreadable(path: Path, error: Exception) -> CannotRead:
    # Its kind, not its text: OperationalError, a kind of DatabaseError, is about access.
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )
    if damaged:
        return CannotRead(f"cannot read {path}: the file is damaged ({error})")
    what = error.strerror if isinstance(error, OSError) else error
    return CannotRead(f"cannot read {path}: {what}; run this as root or as {owner(path.parent)}")


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
    # A flipped bit in a text must not hide all the rows.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    return connection
