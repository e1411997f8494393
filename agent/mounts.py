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
    kind, options = mount
    upper = next((o.removeprefix("upperdir=") for o in options if o.startswith("upperdir=")), None)
    if kind == "overlay" and upper is not None and PurePath(upper) != directory:
        return is_volatile(PurePath(upper), mountinfo)
    return kind in IN_MEMORY


def _mount_of(directory: PurePath, mountinfo: str) -> tuple[str, list[str]] | None:
    """File system and options of the innermost mount above the directory; the last one wins."""
    best: tuple[int, str, list[str]] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = PurePath(left.split()[4].replace("\\040", " "))
        kind, _source, options = right.split(" ", 2)
        if directory.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), kind, options.split(","))
    return None if best is None else best[1:]
