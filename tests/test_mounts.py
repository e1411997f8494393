"""Whether the state survives a reboot."""

from pathlib import Path, PurePosixPath

import pytest

from agent.mounts import MOUNTINFO, is_volatile

TABLE = """\
22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
30 22 0:26 / /run rw shared:5 - tmpfs tmpfs rw,size=1k
40 22 0:40 / /var/lib rw - overlay overlay rw,lowerdir=/,upperdir=/run/upper,workdir=/run/work
41 22 0:41 / /srv rw - overlay overlay rw,lowerdir=/,upperdir=/data/upper,workdir=/data/work
42 22 0:42 / /my\\040disk rw - tmpfs tmpfs rw
43 22 8:1 / /run/disk rw - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("directory", "volatile"),
    [
        ("/var/ga4", False),
        ("/run/ga4", True),
        ("/runner", False),
        ("/var/lib/ga4-agent", True),
        ("/srv/ga4", False),
        ("/my disk/ga4", True),
        ("/run/disk/ga4", False),
    ],
)
def test_what_lies_in_memory_or_on_an_overlay_in_memory_is_volatile(directory, volatile):
    assert is_volatile(PurePosixPath(directory), TABLE) is volatile


def test_an_overlay_whose_upper_directory_was_mounted_before_the_root_is_volatile():
    """As raspi-config makes it: the tmpfs is left behind in the initramfs."""
    table = "29 1 0:25 / / rw - overlay overlay rw,lowerdir=/lower,upperdir=/upper/data,workdir=/w"
    assert is_volatile(PurePosixPath("/var/lib/ga4-agent"), table)


def test_the_kernels_own_table_is_understood():
    assert not is_volatile(PurePosixPath("/proc"), MOUNTINFO.read_text())
    assert is_volatile(Path("/dev/shm"), MOUNTINFO.read_text())
