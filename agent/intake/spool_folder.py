"""The spool folder as a place: what lies in it, opened with care, removed or moved aside for good.

Programs of the folder's group may put anything there, under any name, at any moment.
"""

import errno
import grp
import logging
import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from agent import atomic_file, crash_point
from agent.intake import spool_file
from agent.intake.source import SourceUnavailable

log = logging.getLogger(__name__)

BAD = "bad"
BAD_MAX = 4 * 1024 * 1024  # bytes
BAD_MODE = 0o750  # the group reads why, but plants no links where the service writes
NAME_MAX = 160  # bytes of a name without its ending, so that what we put behind it fits too
# What a file is called between its commit and its removal: its name, and what was committed.
TAKEN = re.compile(r"\.(.+)\.(\d+-\d+--?\d+)\.taken", re.DOTALL)
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

    def __init__(
        self,
        directory: Path,
        *,
        state_directory: Path | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        bad_max: int = BAD_MAX,
    ) -> None:
        """Take the folder.

        ``state_directory``: the agent's own files, which must not be taken for events.
        ``bad_max``: bytes that bad files may take; then the oldest of them go.
        """
        self._directory = directory
        self._state_directory = state_directory
        self._now_ns = now_ns
        self._bad_max = bad_max

    @property
    def path(self) -> Path:
        """Where it really is, without links on the way."""
        return self._directory.resolve()

    def prepare(self) -> None:
        """Make it if need be, and finish what a kill interrupted. Raises SourceUnavailable."""
        try:
            spool_file.make_folder(self._directory)
            found = self._directory.stat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            usable = os.access(self._directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
            holds_state = self._holds_state(found)
        except OSError as error:
            raise SourceUnavailable(
                f"cannot use the spool folder {self._directory}: {error.strerror}"
            ) from error
        if not usable:
            raise SourceUnavailable(
                f"cannot use the spool folder {self._directory}: found {_owner(found)}, "
                "expected one that the service may read and write"
            )
        if holds_state:
            raise SourceUnavailable(
                f"cannot use the spool folder {self._directory}: the state directory "
                f"{self._state_directory} is in it, expected a folder of its own"
            )
        self._clear_up()

    def _holds_state(self, found: os.stat_result) -> bool:
        """Whether the state directory is this folder, or lies below it."""
        if self._state_directory is None:
            return False
        state = self._state_directory.resolve()
        return any(os.path.samestat(found, path.stat()) for path in (state, *state.parents))

    def names(self) -> list[str]:
        """Files to take, in order: hidden ones and other endings are still being written.

        Raises SourceUnavailable.
        """
        return sorted(
            name
            for name in self._listed()
            if name.endswith(spool_file.SUFFIXES) and not name.startswith(".")
        )

    def _listed(self) -> list[str]:
        try:
            return [path.name for path in self._directory.iterdir()]
        except OSError as error:
            raise SourceUnavailable(
                f"cannot read the spool folder {self._directory}: {error.strerror}"
            ) from error

    def shown(self, name: str) -> str:
        """The file's path for people: without line ends, and in text that can be written."""
        return f"{self._directory}/{shown(name)}"

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
        """Remove the file, whose events were committed; False if it is another one by now.

        The name that it has in between says what was committed, for whoever finds it after a kill.
        Raises OSError.
        """
        hidden = self._directory / f".{_short(name)}.{identity}.taken"
        try:
            if not self._moved(name, hidden, identity):
                return False
        except FileNotFoundError:
            return True
        hidden.unlink()
        return True

    def set_aside(self, name: str, identity: str, reason: str) -> bool:
        """Move the file to ``bad/``, the reason beside it; False if it is another one by now.

        The reason is there first: no file lies there without one. Raises UnusableError, OSError.
        """
        target = self._place_in(self._bad_folder(), name)
        beside = target.with_name(f"{target.name}.reason")
        text = f"cannot take {shown(name)}: {reason}\n"
        atomic_file.write(beside, text.encode(), mode=spool_file.MODE)
        try:
            moved = self._moved(name, target, identity)
        except FileNotFoundError:
            moved = False
        if not moved:
            atomic_file.remove(beside)
            return False
        atomic_file.sync_directory(target.parent)
        self.sync()
        self._rotate(target.parent)
        return True

    def size(self) -> int:
        """Bytes of everything in it, bad files too; what vanishes meanwhile counts nothing."""
        files = (*self._files(self._directory), *self._files(self._directory / BAD))
        return sum(found.st_size for _, found in files)

    @staticmethod
    def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
        """The files in a folder, and what they are, the oldest first."""
        files = []
        with suppress(OSError):
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    files.append((path, path.lstat()))
        return sorted(
            (each for each in files if stat.S_ISREG(each[1].st_mode)),
            key=lambda each: each[1].st_ctime_ns,
        )

    def _rotate(self, folder: Path) -> None:
        """Let the oldest bad files go, with their reasons, until the others fit; the last one stays."""
        files = self._files(folder)
        size = sum(found.st_size for _, found in files)
        bad = [each for each in files if each[0].suffix != ".reason"]
        for path, found in bad[:-1]:
            if size <= self._bad_max:
                return
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.reason").unlink(missing_ok=True)
            size -= found.st_size
            log.warning("spool: removed %s: %s/ is full", shown(path.name), BAD)
            crash_point.reached("rotate.middle")

    def _moved(self, name: str, target: Path, identity: str) -> bool:
        """Move the file away if it is this one.

        Another can be renamed over it at any moment. So what was moved is looked at again, and
        given back under a name of its own: by now a third file may have the old one.
        """
        path = self._directory / name
        if identity_of(path.lstat()) != identity:
            return False
        path.rename(target)
        if identity_of(target.lstat()) == identity:
            return True
        self._give_back(target, name)
        return False

    def _give_back(self, moved: Path, name: str) -> None:
        moved.rename(self._directory / self._timed(name))

    def _clear_up(self) -> None:
        """Finish what a kill interrupted between a move and the removal."""
        for match in filter(None, map(TAKEN.fullmatch, self._listed())):
            path = self._directory / match[0]
            try:
                if identity_of(path.lstat()) == match[2]:
                    path.unlink()
                else:
                    self._give_back(path, match[1])
            except OSError as error:  # somebody plays with such names: no reason to stop
                log.warning("cannot remove %s: %s", self.shown(match[0]), error.strerror)

    def _place_in(self, folder: Path, name: str) -> Path:
        """A path in another folder that nobody has."""
        path = folder / _short(name)
        return folder / self._timed(name) if os.path.lexists(path) else path

    def _timed(self, name: str) -> str:
        """A name that nobody else has, with the same ending."""
        path = Path(_short(name))
        return f"{path.stem}.{self._now_ns()}{path.suffix}"

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


def _short(name: str) -> str:
    """The name as it is, unless it is very long."""
    path = Path(name)
    return os.fsdecode(os.fsencode(path.stem)[:NAME_MAX]) + path.suffix


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
