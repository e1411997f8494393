"""A connection to the queue's file: what must be set before anything is written."""

import sqlite3

from agent.queue import schema
from agent.queue.failures import UnreadableQueue
from agent.queue.migration import migrate

WAL_PAGES = 1000  # checkpoint at 1 MB
WAL_LIMIT = 1024 * 1024  # bytes the WAL is cut back to
FREE_PAGES = 1024  # pages the file keeps for what comes next: giving back costs writes


def prepare(connection: sqlite3.Connection) -> None:
    """Set what SQLite ignores once the file is in WAL mode, then switch; bring it up to date."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.VERSION:
        raise UnreadableQueue(
            f"cannot use the queue: found version {version}, expected at most {schema.VERSION}"
        )
    if connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0:
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    # Debian's default writes zeros over what is deleted: as much as the events were, into the WAL.
    connection.execute("PRAGMA secure_delete = FAST")
    migrate(connection)


def give_back(connection: sqlite3.Connection, pages: int) -> None:
    """Shrink the file, a little at a time, when a drained backlog has left it mostly empty."""
    spare = connection.execute("PRAGMA freelist_count").fetchone()[0] - FREE_PAGES
    # One by one: Python takes only the first step of a statement that returns no columns.
    for _ in range(min(pages, spare)):
        connection.execute("PRAGMA incremental_vacuum(1)")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; its free pages are not counted."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def text(data: bytes) -> str:
    """Text as SQLite holds it: a flipped bit must not raise."""
    return data.decode("utf-8", "replace")
