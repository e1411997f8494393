"""Files of the spool folder: what is in them, and a way to leave one that stays.

An event that `send` or an export writes has its stamp, stream and sender, so that it means the
same when it is read again, here or on another device. `parse` with ``Shape.SPOOL`` reads it.
"""

import base64
import errno
import fcntl
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
LINE_MAX = 1024 * 1024  # bytes of a document: a line of a .ndjson file, which may have any length
CUT = "…".encode()  # behind a line that is too long: what is left of it must not pass as whole
RAW_START = b'{"raw":"'  # how an exported dead letter begins
RAW_MAX = LINE_MAX * 4 // 3 + 16_384  # bytes of one: a document in base64, its reason and stamp
TAIL = 4096  # bytes before a position that tell whether a file is still the one that was read
BREATH = 256 * 1024  # bytes without a document after which the reader may look up
LOCK_PATIENCE = 5.0  # seconds to wait for others who make the folder
LOCK_PAUSE = 0.02  # seconds between attempts


class BadFile(Exception):  # noqa: N818 - named after what was found
    """No events can be read from this file; the message says why and holds none of it."""


def make_folder(directory: Path, *, patience: float = LOCK_PATIENCE) -> None:
    """Make the spool folder if there is none, for good, and for the folder's group to write.

    Root makes it for the owner of the folder around it. ``patience``: seconds to wait for others
    who make it too. Raises OSError.
    """
    if directory.exists():
        return
    if not directory.parent.exists():
        directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with _alone_in(directory.parent, patience):
        if not directory.exists():
            _make(directory)


@contextmanager
def _alone_in(directory: Path, patience: float) -> Iterator[None]:
    """Wait for others who make something there: the daemon, and every `send` without it.

    Not for ever: whoever may read the folder can hold the lock. What is made without it is made
    all the same, by one of those who try.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    until = time.monotonic() + patience
    try:
        while not _locked(descriptor) and time.monotonic() < until:
            time.sleep(LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(directory: Path) -> None:
    # Under another name first: a kill must not leave it with a mode that shuts programs out.
    fresh = directory.with_name(f".{directory.name}.new")
    try:
        _make_empty(fresh)
        _open_to_group(fresh)
        fresh.rename(directory)
    except OSError:
        if not directory.is_dir():  # else somebody without the lock was faster
            raise
    atomic_file.sync_directory(directory.parent)


def _make_empty(folder: Path) -> None:
    """Make it anew: what a kill left is removed, somebody's link or full folder is not taken."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        folder.rmdir()
        folder.mkdir(mode=0o700)


def _open_to_group(folder: Path) -> None:
    """Give it owner and mode, through a descriptor: a link must not lead root elsewhere."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.listdir(descriptor):  # noqa: PTH208 - by the descriptor: another was moved there
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        if os.geteuid() == 0:
            around = folder.parent.stat()
            os.fchown(descriptor, around.st_uid, around.st_gid)
        try:
            os.fchmod(descriptor, FOLDER_MODE)
        except PermissionError:  # systemd's RestrictSUIDSGID forbids that bit
            os.fchmod(descriptor, FOLDER_MODE & ~stat.S_ISGID)
    finally:
        os.close(descriptor)


def leave(directory: Path, name: str, payload: bytes) -> None:
    """Put a file into the spool folder; when it returns, it survives a power cut.

    Raises OSError.
    """
    atomic_file.write(directory / name, payload, mode=MODE)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read.

    ``done`` counts bytes of a .ndjson file, elements of a .json file. ``check``: a checksum of what
    lies right before it, or of the whole .json file.
    """

    done: int
    check: int


START = Place(0, 0)


def documents(
    file: BinaryIO, name: str, *, size: int, after: Place = START
) -> Iterator[tuple[bytes, Place] | None]:
    """The JSON documents in a file, each with the place behind it. Raises BadFile.

    ``size``: bytes in it; what is written behind them in the meantime is not looked at.
    ``after``: the place to go on from; if it is not in this file, from the beginning.
    None is no document: there has been none for a while, and the caller may look up.
    """
    return _lines(_Reader(file, size, after)) if _has_lines(name) else _elements(file, after)


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


def _elements(file: BinaryIO, after: Place) -> Iterator[tuple[bytes, Place]]:
    """The elements of an array, or the one document that the file is."""
    file.seek(0)
    text = file.read(JSON_MAX + 1)
    if len(text) > JSON_MAX:
        raise BadFile(
            f"found more than {format_size(JSON_MAX)}, expected less; "
            "write one event a line into a .ndjson file"
        )
    payloads, check = _payloads(text.strip()), zlib.crc32(text)
    done = after.done if after.check == check else 0
    for number, payload in enumerate(payloads[done:], start=done + 1):
        yield payload, Place(number, check)


def _payloads(text: bytes) -> list[bytes]:
    value = _objects(text)
    payloads = [jsontext.dumps(item) for item in value] if isinstance(value, list) else [text]
    # If one of them is refused, all of it has to be kept, and to fit a line of an export.
    if any(len(payload) > _most(payload) for payload in payloads):
        limit = format_size(LINE_MAX)
        raise BadFile(f"found a document of over {limit}, expected events in smaller ones")
    return payloads


def _most(payload: bytes) -> int:
    """Bytes that a document which begins like this may have."""
    return RAW_MAX if payload.startswith(RAW_START) else LINE_MAX


class _Reader:
    """Reads a file's lines from a place on, up to a size, and knows the place it has come to."""

    def __init__(self, file: BinaryIO, size: int, after: Place) -> None:
        done = after.done if after.done <= size else 0
        file.seek(max(0, done - TAIL))
        tail = file.read(min(done, TAIL))
        fits = zlib.crc32(tail) == after.check
        self._file = file
        self._size = size
        self._behind = bytearray(tail if fits else b"")  # the last of it counts
        self.at = done if fits else 0
        file.seek(self.at)

    @property
    def place(self) -> Place:
        return Place(self.at, zlib.crc32(self._behind[-TAIL:]))

    def read(self, most: int) -> bytes:
        """The next line; a part of it if it is longer. Empty at the end."""
        line = self._file.readline(min(most, self._size - self.at))
        self.at += len(line)
        self._behind += line
        if len(self._behind) > BREATH:
            del self._behind[:-TAIL]
        return line

    def skip(self, part: bytes) -> Iterator[None]:
        """Go to the end of the line of which this part was read, with a None for each BREATH."""
        while part and not part.endswith(b"\n"):
            part = self.read(BREATH)
            yield None


def _lines(reader: _Reader) -> Iterator[tuple[bytes, Place] | None]:
    """The lines of a file."""
    begun, last = reader.at > 0, reader.at
    while line := reader.read(RAW_MAX + 1):
        payload = line.strip()
        if len(line) - line.endswith(b"\n") > _most(line):
            if not begun:
                limit = format_size(LINE_MAX)
                raise BadFile(f"found a first line of over {limit}, expected one event a line")
            yield from reader.skip(line)
            payload = line[: LINE_MAX - len(CUT)] + CUT
        if payload and not begun:
            _objects(payload)  # a file whose first line is none has no events a line
            begun = True
        if payload:
            yield payload, reader.place
        elif reader.at - last < BREATH:
            continue
        else:
            yield None
        last = reader.at
    if not begun:
        raise BadFile("found nothing in it, expected events")


def _objects(text: bytes) -> Any:
    """A JSON object or an array of them: a file of two million numbers is no file of events."""
    try:
        value = jsontext.loads(text)
    except NotJson as error:
        raise BadFile(str(error)) from None
    if value == []:
        raise BadFile("found an empty array, expected at least one event")
    if not all(isinstance(item, dict) for item in (value if isinstance(value, list) else [value])):
        where = " in an array" if isinstance(value, list) else ""
        raise BadFile(f"found JSON that is no object{where}, expected events")
    return value


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
        "sitting": event.sitting and asdict(event.sitting),
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
