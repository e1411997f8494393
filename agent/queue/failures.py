"""Why the queue did not do what it was asked to."""

import errno
import sqlite3

from agent.queue.group_commit import Declined

# What SQLite says of a disk that can be read and of what lies there, as against the disk itself.
OF_THE_CONTENT = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # such as: no such table
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_TOOBIG,
}


class QueueFull(Declined):
    """The events would not fit under the cap. Nothing of them was stored.

    ``never``: not even an empty queue could take them together.
    """

    def __init__(self, *, never: bool) -> None:
        super().__init__("the queue is full")
        self.never = never


class StorageError(Exception):
    """The disk did not take it: full, read-only, broken or gone. ``state`` is for `status`."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


class UnreadableQueue(Exception):  # noqa: N818 - named after what was found
    """The file cannot be used as it is: damaged, or written by a newer version."""


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether it is about what lies in the file, and not about the disk or other programs."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in OF_THE_CONTENT


def unusable(error: sqlite3.DatabaseError) -> Exception:
    """What a person can do something about, from SQLite's result code."""
    if damaged(error):
        return UnreadableQueue(f"cannot read the queue: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageError("disk_full", "cannot write the queue: the disk is full")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            "storage_slow", "cannot write the queue: another program holds its file"
        )
    return StorageError("read_only", f"cannot use the queue's disk: {error}")


def unwritten(error: OSError) -> StorageError:
    """Likewise, from a file beside the database."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("disk_full", "cannot write the queue: the disk is full")
    return StorageError("read_only", f"cannot use the queue's disk: {error.strerror}")
