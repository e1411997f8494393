"""Whether a directory survives a reboot, from the kernel's table of mounts (proc(5))."""

from pathlib import Path, PurePath

MOUNTINFO = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))


def is_volatile(directory: PurePath, mountinfo: str) -> bool:
    """Whether it lies in memory, or on an overlay whose upper directory does.

    ``mountinfo`` is the text of /proc/self/mountinfo; ``directory`` is absolute.
    """
    mount = _mount_of(directory, mountinfo)
    if mount is None:
        return False
    _, kind, options = mount
    upper = next((o.removeprefix("upperdir=") for o in options if o.startswith("upperdir=")), None)
    if kind != "overlay" or upper is None:
        return kind in IN_MEMORY
    if _mount_of(PurePath(upper), mountinfo) == mount:
        # It was mounted before this root was: in the initramfs, where raspi-config keeps a tmpfs.
        return True
    return is_volatile(PurePath(upper), mountinfo)


def _mount_of(directory: PurePath, mountinfo: str) -> tuple[PurePath, str, list[str]] | None:
    """Place, file system and options of the innermost mount above it; the last one wins."""
    best: tuple[PurePath, str, list[str]] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = PurePath(left.split()[4].replace("\\040", " "))
        kind, _source, options = right.split(" ", 2)
        inner = best is None or len(point.parts) >= len(best[0].parts)
        if directory.is_relative_to(point) and inner:
            best = (point, kind, options.split(","))
    return best
