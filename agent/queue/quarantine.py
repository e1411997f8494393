"""Files of the queue that were put out of the way, whole.

The damaged ones lie in a folder, for people and for salvage; each has a reason file once what can
be read of it was taken over. Those that a newer program wrote wait for that program beside the
queue's file.
"""

import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import atomic_file, crash_point

FOLDER = "quarantine"
LARGEST = 4  # the newest file may take a quarter of the cap
ALL = 8  # all files together an eighth, the newest one aside
_CASE = re.compile(r"damaged-(\d+)\.(db|json)")
_NEWER = re.compile(r"queue\.v(\d+)(?:\.\d+)?\.db")


class Quarantine:
    """The folder of damaged files."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        """``directory``: the state directory; ``max_bytes``: the cap for everything."""
        self._folder = directory / FOLDER
        self._max_bytes = max_bytes

    def admit(self, database: Path) -> Path:
        """Move a damaged file here, with its WAL; where it lies now. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        number = max((int(match[1]) for match in self._found()), default=0) + 1
        place = self._folder / f"damaged-{number:04}.db"
        move(database, place)
        crash_point.reached("quarantine.middle")
        return place

    def pending(self) -> list[Path]:
        """The files of which nobody has taken over all that can be read, the newest first."""
        files = [self._folder / match[0] for match in self._found() if match[2] == "db"]
        return [path for path in _newest_first(files) if not _reason_of(path).exists()]

    def close(self, database: Path, reason: Mapping[str, Any]) -> None:
        """All was taken over: say what became of it, and keep the bound. Raises OSError."""
        with suppress(FileNotFoundError):
            wal_of(database, "-shm").unlink()
        text = json.dumps(reason, indent=2, ensure_ascii=False)
        atomic_file.write(_reason_of(database), text.encode() + b"\n", mode=0o640)
        self.trim()

    def trim(self) -> None:
        """Remove what is over the bound, oldest first, and never what is pending."""
        cases = _newest_first(
            {self._folder / f"{match[0][: -len(match[2])]}db" for match in self._found()}
        )
        pending = set(self.pending())
        left = self._max_bytes // ALL
        for number, path in enumerate(cases):
            size = _size(path)
            if path in pending or (number == 0 and size <= self._max_bytes // LARGEST):
                left -= size
            elif number == 0:
                _remove([path, wal_of(path)])  # its reason stays: else nobody would know of it
            elif size <= left and size:
                left -= size
            else:
                _remove([path, wal_of(path), _reason_of(path)])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(_size(self._folder / match[0]) for match in self._found())

    def _found(self) -> list[re.Match[str]]:
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return [match for name in sorted(names) if (match := _CASE.fullmatch(name))]


def set_aside(database: Path, version: int) -> Path:
    """Move a file that a newer program wrote to where that program finds it. Raises OSError."""
    place = database.with_name(f"{database.stem}.v{version}.db")
    number = 1
    while place.exists():
        number += 1
        place = database.with_name(f"{database.stem}.v{version}.{number}.db")
    move(database, place)
    return place


def files_set_aside(directory: Path) -> dict[Path, int]:
    """The files that newer programs wrote, and their versions."""
    found = (_NEWER.fullmatch(path.name) for path in sorted(directory.iterdir()))
    return {directory / match[0]: int(match[1]) for match in found if match}


def move(database: Path, place: Path) -> None:
    """Give a database another place, with its WAL. Raises OSError.

    They belong together, and two files cannot be moved at once: the WAL is in both places before
    the database is, and ``finish_move`` removes it from the old one if a kill did not let this do it.
    """
    wal, new_wal = wal_of(database), wal_of(place)
    new_wal.unlink(missing_ok=True)
    if wal.exists():
        _link(wal, new_wal)
        atomic_file.sync_directory(place.parent)
    if not database.exists():
        database.touch()
    database.rename(place)
    atomic_file.sync_directory(place.parent)
    for left in (wal, wal_of(database, "-shm"), wal_of(database, "-journal")):
        left.unlink(missing_ok=True)
    atomic_file.sync_directory(database.parent)


def finish_move(database: Path, places: Iterable[Path]) -> None:
    """Remove a WAL whose database has gone to one of these places. Raises OSError."""
    wal = wal_of(database)
    if database.exists() or not wal.exists():
        return
    for place in places:
        moved = wal_of(place)
        if moved.exists() and filecmp.cmp(wal, moved, shallow=False):
            wal.unlink()
            wal_of(database, "-shm").unlink(missing_ok=True)
            atomic_file.sync_directory(database.parent)
            return


def remove(database: Path) -> None:
    """Remove a database with all that belongs to it. Raises OSError."""
    for path in (database, wal_of(database), wal_of(database, "-shm")):
        path.unlink(missing_ok=True)
    atomic_file.sync_directory(database.parent)


def wal_of(database: Path, ending: str = "-wal") -> Path:
    """The file beside a database that has its name and the ending."""
    return database.with_name(database.name + ending)


def _link(wal: Path, place: Path) -> None:
    try:
        os.link(wal, place)
    except OSError:  # a file system without links, such as FAT
        shutil.copyfile(wal, place)
        with place.open("rb") as file:
            os.fsync(file.fileno())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            path.unlink()
            crash_point.reached("rotate.middle")


def _size(path: Path) -> int:
    """Bytes of a file, and of the WAL beside it."""
    both = (path, wal_of(path))
    return sum(each.stat().st_size for each in both if each.exists())


def _reason_of(database: Path) -> Path:
    return database.with_suffix(".json")


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: int(re.sub(r"\D", "", path.stem)), reverse=True)
