"""Why the queue did not do what it was asked to."""

import sqlite3

from agent.queue.group_commit import Declined


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


def unusable(error: sqlite3.DatabaseError) -> Exception:
    """What a person can do something about, from SQLite's result code."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return UnreadableQueue(f"cannot read the queue: {error}")
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageError("disk_full", "cannot write the queue: the disk is full")
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            "storage_slow", "cannot write the queue: another program holds its file"
        )
    return StorageError("read_only", f"cannot use the queue's disk: {error}")
