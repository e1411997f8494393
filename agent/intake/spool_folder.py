"""The spool folder as a place: what lies in it, opened with care, removed or moved aside for good.

Programs of the folder's group may put anything there, under any name, at any moment.
"""

import errno
import grp
import itertools
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent import atomic_file
from agent.intake import spool_file
from agent.intake.source import SourceUnavailable

BAD = "bad"
BAD_MODE = 0o750  # the group reads why, but plants no links where the service writes
NAME_MAX = 200  # bytes of a name in bad/, so that a number and ".reason" fit behind it
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


class UnusableError(Exception):
    """A file that cannot be taken now; the message is for people."""


class SpoolFolder:
    """One folder, and ``bad/`` in it. Names can be any bytes but "/", as os.fsdecode reads them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make it if need be. Raises SourceUnavailable."""
        try:
            spool_file.make_folder(self._directory)
            found = self._directory.stat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            usable = os.access(self._directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
        except OSError as error:
            raise SourceUnavailable(
                f"cannot use the spool folder {self._directory}: {error.strerror}"
            ) from error
        if not usable:
            raise SourceUnavailable(
                f"cannot use the spool folder {self._directory}: found {_owner(found)}, "
                "expected one that the service may read and write"
            )

    def names(self) -> list[str]:
        """Files to take, in order: hidden ones and other endings are still being written.

        Raises SourceUnavailable.
        """
        try:
            return sorted(
                path.name
                for path in self._directory.iterdir()
                if path.name.endswith(spool_file.SUFFIXES) and not path.name.startswith(".")
            )
        except OSError as error:
            raise SourceUnavailable(
                f"cannot read the spool folder {self._directory}: {error.strerror}"
            ) from error

    def shown(self, name: str) -> str:
        """The file's path for people: without line ends, and in text that can be written."""
        return f"{self._directory}/{shown(name)}"

    def find(self, name: str) -> os.stat_result | None:
        """What has the name now; None when nothing has. Raises OSError."""
        try:
            return (self._directory / name).lstat()
        except FileNotFoundError:
            return None

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
        """The file, and what it is. A pipe must not hold us up, nor a link lead us elsewhere.

        Raises UnusableError, OSError.
        """
        path = self._directory / name
        found = path.lstat()
        _expect_file(found)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:
            raise UnusableError(
                f"found {_owner(found)}, expected one that the service may read; "
                f"run: chmod g+r and chgrp {_group(self._directory.stat().st_gid)} on it"
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            _expect_file(found)  # another thing may have come under the name in the meantime
            yield file, found

    def remove(self, name: str, identity: str) -> bool:
        """Remove the file; False if it is another one, renamed over it. Raises OSError."""
        found = self.find(name)
        if found is not None and identity_of(found) != identity:
            return False
        (self._directory / name).unlink(missing_ok=True)
        return True

    def set_aside(self, name: str, identity: str, reason: str) -> bool:
        """Move the file to ``bad/``, the reason beside it; False if it is another one by now.

        The reason is there first: no file lies there without one. Raises UnusableError, OSError.
        """
        target = _free(self._bad_folder(), name)
        beside = target.with_name(f"{target.name}.reason")
        text = f"cannot take {shown(name)}: {reason}\n"
        atomic_file.write(beside, text.encode(), mode=spool_file.MODE)
        found = self.find(name)
        if found is None or identity_of(found) != identity:
            atomic_file.remove(beside)
            return False
        (self._directory / name).rename(target)
        atomic_file.sync_directory(target.parent)
        self.sync()
        return True

    def _bad_folder(self) -> Path:
        folder = self._directory / BAD
        folder.mkdir(mode=BAD_MODE, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            raise UnusableError(
                f"found {BAD}/ of {_owner(found)}, expected the service's; remove it"
            )
        return folder

    def sync(self) -> None:
        """Make removals survive a power cut. Raises OSError."""
        atomic_file.sync_directory(self._directory)


def identity_of(found: os.stat_result) -> str:
    """What no other file has that comes to have the same name while this one is there."""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def shown(name: str) -> str:
    """The name for people: bytes that are no UTF-8 and line ends as escapes."""
    return repr(name)[1:-1]


def _expect_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise UnusableError(f"found {kind}, expected a file; remove it")


def _free(folder: Path, name: str) -> Path:
    """The name, or the first with a number that nobody has."""
    name = os.fsdecode(os.fsencode(name)[:NAME_MAX])
    endings = itertools.chain([""], map(".{}".format, itertools.count(1)))
    return next(path for end in endings if not (path := folder / f"{name}{end}").exists())


def _owner(found: os.stat_result) -> str:
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    return f"owner {user}, group {_group(found.st_gid)}, mode {stat.S_IMODE(found.st_mode):04o}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
