"""A device whose clock is wrong: processes that live at another time, and see it jump.

Only the clocks of the process are another: files keep the kernel's times (`st_mtime` is true).
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_clock.c")
AFTER_POWER_ON = 1_000_000.0  # seconds after 1970 at which a device without a battery begins


class FakeClock:
    """The clocks of one machine. Give ``environ`` to its processes; what is set holds at once.

    It begins as this machine's own clocks, but without NTP.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "fake-clock"
        self._library = library()
        self._wall = 0.0
        self._boot = 0.0
        self._ntp = False
        self.boot_id = str(uuid.uuid4())
        self._write()

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of a process of that machine, on top of ours."""
        return os.environ | {"LD_PRELOAD": str(self._library), "FAKE_CLOCK": str(self._file)}

    def jump_to(self, unix_seconds: float) -> None:
        """Set the wall clock; it goes on from there."""
        self.set_offset(unix_seconds - time.time())

    def set_offset(self, seconds: float) -> None:
        """Let the wall clock be that far from ours; 0 is the true time."""
        self._wall = seconds
        self._write()

    def synchronise(self, *, ntp: bool = True) -> None:
        """Let the kernel say that NTP sets the clock, or no longer."""
        self._ntp = ntp
        self._write()

    def reboot(self, *, wall: float = AFTER_POWER_ON) -> None:
        """A new boot: other id, boot clock at 0, wall clock wrong again, no NTP.

        The machine's processes must have ended before.
        """
        self.boot_id = str(uuid.uuid4())
        self._boot = -time.clock_gettime(time.CLOCK_BOOTTIME)
        self._ntp = False
        self.jump_to(wall)

    def _write(self) -> None:
        """Replaced as a whole: it is read at every look at a clock."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._wall:.6f} {self._boot:.6f} {self._ntp:d} {self.boot_id}\n")
        new.replace(self._file)


def library() -> Path:
    """The shim, compiled once for each version of its source."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no cc: apt install gcc libc6-dev")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"ga4-fake-clock-{os.getuid()}-{digest}.so"
    if not built.exists():
        new = built.with_suffix(f".{os.getpid()}")
        flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, "-o", new, SOURCE, "-ldl"], check=True)
        new.replace(built)
    return built
