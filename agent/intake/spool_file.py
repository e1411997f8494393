"""Files of the spool folder: what is in them, and a way to leave one that stays.

An event that `send` or an export writes has its stamp, stream and sender, so that it means the
same when it is read again, here or on another device. `parse` with ``Shape.SPOOL`` reads it.
"""

import base64
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from agent import atomic_file, jsontext
from agent.event import UNASSIGNED, Event, RawMessage, Stamp
from agent.jsontext import NotJson
from agent.units import format_size

FOLDER_MODE = 0o2770  # what programs of the group put into it gets the folder's group
MODE = 0o660  # the folder's group is the service's: it must read what others leave
SUFFIXES = (".json", ".ndjson")
JSON_MAX = 4 * 1024 * 1024  # bytes of a .json file, which is read as a whole
LINE_MAX = 1024 * 1024  # bytes of a line in a .ndjson file, which may have any length
CUT = "…".encode()  # behind a line that is too long: what is left of it must not pass as whole


class BadFile(Exception):  # noqa: N818 - named after what was found
    """No events can be read from this file; the message says why and holds none of it."""


def make_folder(directory: Path) -> None:
    """Make the spool folder if there is none, for good, and for the folder's group to write.

    Root makes it for the owner of the folder around it. Raises OSError.
    """
    if directory.exists():
        return
    if not directory.parent.exists():
        directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with _alone_in(directory.parent):
        if not directory.exists():
            _make(directory)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait for others who make something there: the daemon, and every `send` without it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(directory: Path) -> None:
    around = directory.parent.stat()
    # Under another name first: a kill must not leave it with a mode that shuts programs out.
    fresh = directory.with_name(f".{directory.name}.new")
    fresh.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(fresh, around.st_uid, around.st_gid)
    try:
        fresh.chmod(FOLDER_MODE)
    except PermissionError:
        fresh.chmod(FOLDER_MODE & ~stat.S_ISGID)  # systemd's RestrictSUIDSGID forbids that bit
    fresh.rename(directory)
    atomic_file.sync_directory(directory.parent)


def leave(directory: Path, name: str, payload: bytes) -> None:
    """Put a file into the spool folder; when it returns, it survives a power cut.

    Raises OSError.
    """
    atomic_file.write(directory / name, payload, mode=MODE)


def documents(file: BinaryIO, name: str, *, size: int, done: int) -> Iterator[tuple[bytes, int]]:
    """The JSON documents in a file, each with the position behind it. Raises BadFile.

    ``size``: bytes in it; what is written behind them in the meantime is not looked at.
    ``done``: the position to go on from; 0 is the beginning.
    """
    return _lines(file, size, done) if _has_lines(name) else _elements(file, done)


def looks_unfinished(file: BinaryIO, name: str, found: os.stat_result) -> bool:
    """Whether it looks as if it were still being written.

    A last line has no end yet; or the file has two names, of which its writer is about to take
    the hidden one away.
    """
    if found.st_nlink > 1:
        return True
    if not _has_lines(name) or not found.st_size:
        return False
    file.seek(found.st_size - 1)
    return file.read(1) != b"\n"


def _has_lines(name: str) -> bool:
    return name.endswith(".ndjson")


def _elements(file: BinaryIO, done: int) -> Iterator[tuple[bytes, int]]:
    """The elements of an array, or the one document that the file is; positions count them."""
    file.seek(0)
    text = file.read(JSON_MAX + 1)
    if len(text) > JSON_MAX:
        raise BadFile(
            f"found more than {format_size(JSON_MAX)}, expected less; "
            "write one event a line into a .ndjson file"
        )
    value = _read(text)
    if value == []:
        raise BadFile("found an empty array, expected at least one event")
    elements = value if type(value) is list else None
    for position in range(done, 1 if elements is None else len(elements)):
        yield text if elements is None else jsontext.dumps(elements[position]), position + 1


def _lines(file: BinaryIO, size: int, done: int) -> Iterator[tuple[bytes, int]]:
    """The lines of a file; positions count bytes."""
    file.seek(done)
    at = position = done
    while at < size and (line := file.readline(LINE_MAX + 1)):
        at += len(line)
        payload = line.strip()
        if len(line) > LINE_MAX and not line.endswith(b"\n"):
            if not position:
                limit = format_size(LINE_MAX)
                raise BadFile(f"found a first line of over {limit}, expected one event a line")
            at += _skip_line(file)
            payload += CUT
        if payload and not position:
            _read(payload)  # a file whose first line is no JSON has no events a line
        if payload:
            position = at
            yield payload, position
    if not position:
        raise BadFile("found nothing in it, expected events")


def _skip_line(file: BinaryIO) -> int:
    """Go to the end of the line; the bytes on the way."""
    skipped = 0
    while rest := file.readline(LINE_MAX):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def _read(text: bytes) -> Any:
    try:
        return jsontext.loads(text)
    except NotJson as error:
        raise BadFile(str(error)) from None


def line(item: Event | RawMessage) -> bytes:
    """What lay in the queue, as one line without its end."""
    return jsontext.dumps(_raw(item) if isinstance(item, RawMessage) else _fields(item))


def stamp_fields(stamp: Stamp) -> dict[str, Any]:
    """A stamp as spool files hold it."""
    return asdict(stamp)


def _fields(event: Event) -> dict[str, Any]:
    fields = {
        "name": event.name,
        "params": dict(event.params) or None,
        "timestamp_micros": event.time_us,
        "event_id": event.event_id,
        "priority": event.priority.name.lower(),
        "session": event.session,
        "actor": event.actor,
        # What came before any stream was configured goes to the default one.
        "stream": None if event.stream == UNASSIGNED else event.stream,
        "stamp": stamp_fields(event.stamp),
        "complete": True,
    }
    return {name: value for name, value in fields.items() if value is not None} | event.sender.body


def _raw(message: RawMessage) -> dict[str, Any]:
    return {
        "raw": base64.b64encode(message.payload).decode(),
        "source": message.source,
        "reason": message.reason,
        "stamp": stamp_fields(message.stamp),
    } | ({"why": message.why} if message.why else {})
