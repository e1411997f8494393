"""An older file becomes one of today, in one transaction: with all its rows, or not at all."""

import sqlite3
from collections.abc import Mapping, Sequence

from agent import crash_point
from agent.queue import schema

# What makes a file of that version one of the next. Steps only add: an older file may be large.
STEPS: Mapping[int, Sequence[str]] = {
    1: (
        f"ALTER TABLE {schema.TABLE} ADD COLUMN early REAL",
        (
            f"CREATE INDEX IF NOT EXISTS queue_early ON {schema.TABLE} (early) "
            "WHERE early IS NOT NULL AND status < 2"
        ),
    ),
}


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the version of this program; a kill in the middle leaves it as it was."""
    if not _steps(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _steps(connection):  # asked again: another process may have been first
            connection.execute(statement)
            crash_point.reached("migrate.middle")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
        connection.commit()
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def _steps(connection: sqlite3.Connection) -> list[str]:
    """The statements that are missing; none for a file without a version, which is not ours."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    older = range(version, schema.VERSION) if version else ()
    return [statement for number in older for statement in STEPS[number]]
