"""What lies in a queue's file, and waiting for something to come true."""

import sqlite3
from pathlib import Path

from agent.event import Event, RawMessage
from agent.queue import serializer
from agent.queue.event_queue import FILE_NAME
from agent.queue.reader import TABLE


def stored(directory: Path) -> list[Event | RawMessage]:
    """Events and dead letters of the file in their order, read as another process would."""
    connection = sqlite3.connect(f"{(directory / FILE_NAME).as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute(f"SELECT CAST(data AS BLOB) FROM {TABLE} ORDER BY _id").fetchall()
    finally:
        connection.close()
    return [serializer.loads(data) for (data,) in rows]


def events(directory: Path) -> list[Event]:
    """The events of the file, in order."""
    return [item for item in stored(directory) if isinstance(item, Event)]


def letters(directory: Path) -> list[RawMessage]:
    """The raw messages of the file, in order."""
    return [item for item in stored(directory) if isinstance(item, RawMessage)]
