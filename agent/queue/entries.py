"""What is handed to the queue beside events, and what it hands out."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from agent.event import Event


@dataclass(frozen=True, slots=True)
class SourceState:
    """What a source must not lose apart from its events, such as a spool file's name.

    ``value`` None forgets the key.
    """

    source: str
    key: str
    value: str | None

    def write(self, connection: sqlite3.Connection) -> None:
        """Keep it, or forget it, inside the caller's transaction."""
        if self.value is None:
            sql = "DELETE FROM source_state WHERE source = ? AND key = ?"
            connection.execute(sql, (self.source, self.key))
        else:
            sql = "INSERT OR REPLACE INTO source_state VALUES (?, ?, ?)"
            connection.execute(sql, (self.source, self.key, self.value))


@dataclass(frozen=True, slots=True)
class SessionState:
    """What is known of a client's sitting; ``state`` begins with a number of fixed width that rises.

    A state that is not greater than the stored one, as text, is not written: it is an older one.
    """

    client: str
    state: str


@dataclass(frozen=True, slots=True)
class Seen:
    """By what something is known again: the digest of what it is called, and that of its content.

    ``digest`` is empty where being called the same is being the same.
    """

    kind: Literal["event_id", "mqtt", "transaction"]
    key: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Leased:
    """An event that one connection is delivering; ``id`` is its row."""

    id: int
    event: Event


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a request cost on the network, in bytes of headers and bodies."""

    requests: int = 0
    sent: int = 0
    received: int = 0


NO_TRAFFIC = Traffic()


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one page of rows.

    ``kept``: rows that were selected and are as they were. ``next``: the id after which to go
    on; None: it was the last page.
    """

    done: int
    kept: int
    next: int | None
