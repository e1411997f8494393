"""The stage of the acceptance tests, on disks and networks that only root can make."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker, emulator, make_daemon, mqtt_setup, setup
from tests.system.disk import Disk

__all__ = ["broker", "emulator", "make_daemon", "mqtt_setup", "setup"]


@pytest.fixture(autouse=True, scope="session")
def root() -> None:
    """These tests mount disks and make networks."""
    if os.geteuid() != 0:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell("needs root: sudo make system-test")
    for tool in ("mkfs.ext4", "losetup"):
        assert shutil.which(tool), f"found no {tool}: apt install e2fsprogs mount"


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Makes disks; they are unmounted at the end, after the daemons that lived on them."""
    made: list[Disk] = []

    def make(**size: int) -> Disk:
        disk = Disk(tmp_path / f"disk-{len(made)}", **size)
        disk.mount()
        made.append(disk)
        return disk

    yield make
    for disk in made:
        disk.unmount()
