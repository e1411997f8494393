"""A real ext4 on a loop device, whose power can be cut. Needs root."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import until

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, from linux/fs.h
NO_LOG_FLUSH = 2


def run(*command: str | Path) -> str:
    """Run a command that must work; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}"
    return done.stdout


class Disk:
    """An ext4 in an image file, mounted on a folder of its own."""

    def __init__(self, directory: Path, *, megabytes: int = 64) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._image = directory / "disk.img"
        self.path = directory / "mounted"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes * 1024 * 1024)
        run("mkfs.ext4", "-q", "-F", "-m", "0", self._image)

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmount()
        self._image.unlink()

    def mount(self) -> None:
        """Mount it; the journal of what a cut left is replayed."""
        run("mount", "-o", "loop", self._image, self.path)

    def remount(self, option: str) -> None:
        """Mount it otherwise: ``rw``, ``ro`` (refused while files are open for writing)."""
        run("mount", "-o", f"remount,{option}", self.path)

    def let_go(self) -> None:
        """Take it from its folder while programs work on it, as ``umount --lazy`` does."""
        run("umount", "--lazy", self.path)

    def mount_as_another_device(self, option: str = "rw") -> None:
        """As a card that is plugged in again while somebody holds files of the old device."""
        device = run("losetup", "--find", "--show", self._image).strip()
        run("mount", "-o", option, device, self.path)
        run("losetup", "--detach", device)  # when it is unmounted

    def unmount(self) -> None:
        """Unmount it, and wait until the old page cache is gone: it would answer for the disk."""
        if not os.path.ismount(self.path):
            return
        # What has just been killed may still be letting go of its files.
        until(lambda: not self._busy(), f"{self.path} to be let go")
        until(lambda: run("losetup", "-j", self._image) == "", "the loop device to go")

    def cut(self) -> None:
        """Cut the power: what is not on the disk by now never gets there."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(folder)

    def break_down(self) -> None:
        """Turn it read-only in the middle of work, as ext4 does when a card fails."""
        run("mount", "-o", "remount,abort", self.path)

    def fill(self, *, leave: int = 0) -> Path:
        """Take its free space but for so many bytes, with a file that can be removed again."""
        filler = self.path / "filler"
        free = shutil.disk_usage(self.path).free - leave
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while free > 0:
                free -= file.write(bytes(min(free, 256 * 1024)))
        return filler

    def _busy(self) -> bool:
        done = subprocess.run(["umount", self.path], capture_output=True, check=False)
        return done.returncode != 0
