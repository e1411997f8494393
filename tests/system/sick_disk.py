"""A disk that answers EIO to one process: see sick_disk.c."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class SickDisk:
    """The files below a directory, as a process sees them that is started with ``environ``."""

    def __init__(self, *, directory: Path, switch: Path) -> None:
        self._directory = directory
        self._switch = switch
        self._library = library()

    @property
    def environ(self) -> Mapping[str, str]:
        """What to put over the environment of the process."""
        return {
            "LD_PRELOAD": str(self._library),
            "SICK_DISK": str(self._switch),
            "SICK_DIRECTORY": str(self._directory),
        }

    def fall_ill(self, *, reads: bool = False) -> None:
        """Answer EIO to what is written and synced; with ``reads`` to what is read, too."""
        new = self._switch.with_suffix(".new")
        new.write_text("all" if reads else "some")
        new.replace(self._switch)

    def recover(self) -> None:
        """Work again."""
        self._switch.unlink()


def library() -> Path:
    """The shim, compiled once for each version of its source."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no cc: apt install gcc libc6-dev")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"ga4-sick-disk-{os.getuid()}-{digest}.so"
    if not built.exists():
        new = built.with_suffix(f".{os.getpid()}")
        flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, "-o", new, SOURCE, "-ldl"], check=True)
        new.replace(built)
    return built
