"""What is kept beside the events, and never grows beyond a bound: sessions, what was seen, boots.

Forgetting the oldest costs a search only once in many commits, because a commit is waited for.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

BOOTS = 100  # the newest that are kept
SEEN_SLACK = 64  # rows over the bound before the oldest are forgotten
SESSIONS_SLACK = 10  # likewise, as a part of the bound: a tenth

# What a row of each kind takes of the file, with the free space that pages have; bytes, roughly.
SEEN_BYTES, SESSION_BYTES, CLIENT_BYTES = 100, 250, 60
NAME_BYTES = 6000  # an event's name on every day that is kept


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: of each kind that is seen, of sessions, and a day's names and clients."""

    seen: int
    sessions: int
    names: int
    clients: int

    @classmethod
    def within(cls, room: int) -> "Bounds":
        """The usual bounds, and less where a quarter of the room (bytes) does not hold that."""
        share = max(0, room) // 4
        return cls(
            seen=min(10_000, share // 2 // 3 // SEEN_BYTES),
            sessions=min(10_000, share // 4 // SESSION_BYTES),
            names=max(20, min(500, share // 4 // NAME_BYTES)),
            clients=min(2000, share // 8 // 2 // CLIENT_BYTES),
        )


class Bounded:
    """The tables. Writes are inside the caller's transaction, one at a time."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # Rolled back rows stay counted: then the next search only comes early.
        self._sessions: int | None = None

    def put_session(self, connection: sqlite3.Connection, client: str, state: str) -> None:
        """Keep the state, unless a later one is there: they begin with a rising number."""
        sql = "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (client) DO NOTHING"
        if connection.execute(sql, (client, state)).rowcount:
            self._count_session(connection)
        else:
            sql = "UPDATE sessions SET state = ? WHERE client = ? AND state < ?"
            connection.execute(sql, (state, client, state))

    def put_seen(self, connection: sqlite3.Connection, kind: str, key: str, digest: str) -> None:
        """Remember one more; forget the oldest of its kind now and then."""
        newest = "SELECT COALESCE(MAX(number), 0) FROM seen WHERE kind = ?"
        number = connection.execute(newest, (kind,)).fetchone()[0] + 1
        connection.execute("INSERT INTO seen VALUES (?, ?, ?, ?)", (kind, number, key, digest))
        if number % SEEN_SLACK == 0:
            sql = "DELETE FROM seen WHERE kind = ? AND number <= ?"
            connection.execute(sql, (kind, number - self._bounds.seen))

    def seen(self, connection: sqlite3.Connection, kind: str) -> list[tuple[str, str]]:
        """Keys and digests of a kind that are remembered, the oldest first."""
        sql = (
            "SELECT key, digest FROM seen WHERE kind = ?1 AND number > "
            "(SELECT MAX(number) FROM seen WHERE kind = ?1) - ?2 ORDER BY number"
        )
        return connection.execute(sql, (kind, self._bounds.seen)).fetchall()

    def put_boots(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str]]
    ) -> None:
        """Keep what is known of boots now, and only the newest boots."""
        if rows:
            connection.executemany("INSERT OR REPLACE INTO boots VALUES (?, ?, ?)", rows)
            old = f"SELECT boot_id FROM boots ORDER BY number DESC LIMIT -1 OFFSET {BOOTS}"
            connection.execute(f"DELETE FROM boots WHERE boot_id IN ({old})")

    def _count_session(self, connection: sqlite3.Connection) -> None:
        """Forget the oldest when there are a tenth too many."""
        if self._sessions is None:
            self._sessions = _number_of_sessions(connection)
        else:
            self._sessions += 1
        most = self._bounds.sessions
        if self._sessions <= most + most // SESSIONS_SLACK:
            return
        sql = "SELECT client FROM sessions ORDER BY state LIMIT ?"
        excess = max(0, _number_of_sessions(connection) - most)
        connection.execute(f"DELETE FROM sessions WHERE client IN ({sql})", (excess,))
        self._sessions = most


def _number_of_sessions(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT COUNT(*) FROM sessions").fetchone()[0])
