"""A look into the queue's file beside the daemon, or without it: read-only, in short reads."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.event import Event
from agent.queue import serializer
from agent.queue.event_queue import FILE_NAME, READY
from agent.queue.ledger import Books, books_of
from agent.queue.serializer import DamagedRow

TABLE = "ack_queue_default"


class CannotRead(Exception):  # noqa: N818 - named after what happened
    """The file is not there, not readable for this user, or no queue."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the file says: the books, its bytes in use, and the event that waits longest."""

    books: Books
    used_bytes: int
    oldest: Event | None


def read_snapshot(directory: Path) -> Snapshot:
    """Read the queue of a state directory without changing it. Raises CannotRead."""
    path = directory / FILE_NAME
    try:
        path.stat()
        with _read_only(path) as connection:
            return _snapshot(connection)
    except FileNotFoundError:
        raise CannotRead(f"cannot read the queue: found no {path}") from None
    except (sqlite3.Error, OSError) as error:
        raise CannotRead(
            f"cannot read {path}: {error}; run this as root or as {_owner(directory)}"
        ) from error


def _owner(directory: Path) -> str:
    """The user who may; a dynamic user has no name while its service is stopped."""
    try:
        return f"the user {directory.owner()}, who owns it"
    except (KeyError, OSError):
        return "the service's own user"


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def _snapshot(connection: sqlite3.Connection) -> Snapshot:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    counters = dict(connection.execute("SELECT counter, value FROM ledger"))
    return Snapshot(books_of(counters), (pages - free) * size, _oldest(connection))


def _oldest(connection: sqlite3.Connection) -> Event | None:
    sql = f"SELECT CAST(data AS BLOB) FROM {TABLE} WHERE status < {READY} ORDER BY _id LIMIT 1"
    for (data,) in connection.execute(sql):
        try:
            item = serializer.loads(data)
        except DamagedRow:
            return None
        return item if isinstance(item, Event) else None
    return None
