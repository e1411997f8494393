"""Space kept for acknowledgements: on a full disk even a DELETE needs some.

SQLite in WAL mode cannot delete on a full disk, so a full disk would stop the very drain that
empties it. A file of real blocks is given up for that, and only for that: while it is missing,
nothing new is taken in.
"""

import os
from pathlib import Path

SIZE = 1024 * 1024  # bytes: a WAL up to its checkpoint
MARGIN = 256 * 1024  # bytes that must be left beside it, else it would be given up at once
FILE_NAME = "ballast"


class Ballast:
    """The file. ``spent`` says that its space is in use."""

    def __init__(self, *, directory: Path, wal: Path) -> None:
        """``wal``: SQLite's file of what is committed and not yet in the database file."""
        self._path = directory / FILE_NAME
        self._wal = wal

    @property
    def spent(self) -> bool:
        """Whether it was given up."""
        return not self._path.exists()

    def leaves_room(self, incoming: int) -> bool:
        """Whether so many bytes fit on the disk, in the WAL and then in the database file.

        And whether what the WAL holds already fits into the database file: else acknowledgements
        would need the ballast's space for that.
        """
        disk = os.statvfs(self._path.parent)
        folded = self._wal.stat().st_size if self._wal.exists() else 0
        return disk.f_bavail * disk.f_frsize >= folded + 2 * incoming

    def spend(self) -> None:
        """Give the space to acknowledgements."""
        self._path.unlink(missing_ok=True)

    def fill(self) -> bool:
        """Lay it in again if there is room; whether it is there now."""
        if not self.spent:
            return True
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < SIZE + MARGIN:
            return False
        try:
            self._write()
        except OSError:
            self.spend()
            return False
        return True

    def _write(self) -> None:
        """Write real blocks: a sparse file holds no space."""
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
            os.fsync(file.fileno())
