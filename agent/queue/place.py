"""Whether the queue's file is still where it was opened, and what to do when it is not.

A state directory that is removed, unmounted or replaced while the agent runs leaves SQLite with a
file that has no name: it goes on taking commits, which the next start will never see.
"""

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.queue.failures import StorageError, UnreadableQueue, unusable
from agent.queue.schema import TABLE, VERSION

GONE = (
    "cannot take events: {} was removed or replaced while the agent runs; it mends that by itself"
)
CHUNK = 1024 * 1024  # bytes read at once
File = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the queue's rows are now, and how many. ``path`` None: they were all there already."""

    path: Path | None
    rows: int


class Place:
    """The path of a file that SQLite has open, and what lies there. For any thread."""

    def __init__(self, path: Path) -> None:
        """Remember what is there. Call it when SQLite has opened the file in WAL mode."""
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._aside = path.with_name(f"{path.stem}.v{VERSION}.db")
        self._file, self._wal_file = _file(path), _file(self._wal)

    @property
    def displaced(self) -> bool:
        """Whether another file or none is there now: two looks at the directory."""
        return self._elsewhere or _file(self._wal) != self._wal_file

    def expect(self) -> None:
        """Raises StorageError when what is committed now would not be there after a restart."""
        if self.displaced:
            raise StorageError("read_only", GONE.format(self._path))

    @property
    def unreadable(self) -> bool:
        """Whether the disk refuses to read the file: SQLite calls that damage, and it is none.

        Read through SQLite's own descriptors: to close another one would take its locks away.
        """
        try:
            for descriptor in _descriptors(self._file):
                _read_through(descriptor)
        except OSError:
            return True
        return False

    def save(self, connection: sqlite3.Connection) -> Saved:
        """Put all that the connection sees to where the next start finds it.

        It becomes the file itself if there is none, else one beside it, of what is not in there.
        Call it with the connection's lock, outside of a transaction, and commit nothing after it.
        Raises OSError, sqlite3.Error: nothing is saved then.
        """
        if not self._elsewhere:
            return self._fold(connection)
        if self._aside.exists():
            raise FileExistsError(f"{self._aside} is in the way: it waits for the next start")
        copy = self._path.with_name(f".{self._path.name}.saved")
        copy.unlink(missing_ok=True)
        try:
            connection.execute("VACUUM INTO ?", (str(copy),)).fetchall()
            saved = self._beside(copy) if _file(self._path) else self._put(copy, self._path)
        finally:
            copy.unlink(missing_ok=True)
            _sync(self._path.parent)
        if saved.path == self._path:
            _empty(connection)
        return saved

    @property
    def _elsewhere(self) -> bool:
        return _file(self._path) != self._file

    def _fold(self, connection: sqlite3.Connection) -> Saved:
        """Only the WAL has no name any more: what it holds moves into the file."""
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("another program reads the queue's file")
        return Saved(self._path, _rows(connection))

    def _beside(self, copy: Path) -> Saved:
        self._clear_own_wal()
        _leave_out(copy, self._path)
        with closing(sqlite3.connect(copy)) as connection:
            rows = _rows(connection)
        if not rows:
            return Saved(None, 0)
        return self._put(copy, self._aside)

    def _put(self, copy: Path, path: Path) -> Saved:
        """Under the name, for good, unless something has it by now. Raises FileExistsError."""
        _sync(copy)
        if path == self._path:
            # A WAL without its file would be taken for that of the new one.
            self._wal.unlink(missing_ok=True)
        if path.exists():
            raise FileExistsError(f"{path} is in the way")
        copy.rename(path)  # no link: a card with a FAT knows none
        with closing(sqlite3.connect(path)) as connection:
            return Saved(path, _rows(connection))

    def _clear_own_wal(self) -> None:
        """It must not be taken for the WAL of the file that is there now."""
        if _file(self._wal) == self._wal_file:
            self._wal.unlink(missing_ok=True)


def hold_index(path: Path) -> None:
    """Give all blocks to the index of the WAL, which SQLite maps into memory with holes.

    A hole that is touched on a full disk is the end of the process (SIGBUS). Call it when SQLite
    has opened the file. Raises OSError.
    """
    index = path.with_name(f"{path.name}-shm")
    for descriptor in _descriptors(_file(index)):
        os.posix_fallocate(descriptor, 0, index.stat().st_size)


def prove(connection: sqlite3.Connection) -> None:
    """Write what is there already, inside the caller's transaction: an empty one proves nothing."""
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _file(path: Path) -> File | None:
    """None: nothing is there. What cannot be looked at counts as unchanged where it was there."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _descriptors(file: File | None) -> list[int]:
    """Those of this process that are open on the file."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself has gone
            now = os.fstat(int(entry.name))
            if (now.st_dev, now.st_ino) == file:
                found.append(int(entry.name))
    return found


def _read_through(descriptor: int) -> None:
    at = 0
    while data := os.pread(descriptor, CHUNK, at):
        at += len(data)


def _leave_out(copy: Path, other: Path) -> None:
    """Take from the copy the rows that the other file has: it may be an older or the same one.

    Its ledger then is about its rows alone: what else happened is in the other one.
    """
    with closing(sqlite3.connect(copy)) as connection:
        try:
            connection.execute("ATTACH ? AS other", (f"{other}",))
            connection.execute(
                f"DELETE FROM main.{TABLE} WHERE EXISTS (SELECT 1 FROM other.{TABLE} AS there "
                f"WHERE there._id = {TABLE}._id AND there.data = {TABLE}.data)"
            )
        except sqlite3.DatabaseError as error:
            if not isinstance(unusable(error), UnreadableQueue):
                raise
            # No queue, or damaged: nothing of it is known.
        connection.execute("DELETE FROM main.ledger")
        connection.execute(
            "INSERT INTO main.ledger SELECT counter, value FROM ("
            f"SELECT 'received' AS counter, COUNT(*) AS value FROM main.{TABLE} UNION ALL "
            f"SELECT 'dead', COUNT(*) FROM main.{TABLE} WHERE status = 9 UNION ALL "
            f"SELECT 'queued', COUNT(*) FROM main.{TABLE} WHERE status <> 9)"
        )
        connection.commit()


def _empty(connection: sqlite3.Connection) -> None:
    """An unmounted card that comes back must not bring what was sent meanwhile."""
    with suppress(sqlite3.Error):
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for (table,) in tables:
            connection.execute(f"DELETE FROM {table}")
        connection.commit()


def _rows(connection: sqlite3.Connection) -> int:
    return int(connection.execute(f"SELECT COUNT(*) FROM {TABLE}").fetchone()[0])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
