"""Root works on the state as its owner: what is written then belongs to the service's user.

Root would leave files behind that the service cannot open, and would follow links that the
service's user has laid.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UMASK = 0o027  # the daemon's own: the group may read, others may not
CAPABILITIES_V3 = 0x20080522  # <linux/capability.h>
CAP_DAC_READ_SEARCH = 2  # pass through any directory, read any file; writing is as the owner
SETS = 3  # effective, permitted, inheritable; of each 32 capabilities, the lower half first


@contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Be the owner of the directory for a while, if the user is root; else change nothing.

    The whole process is; threads that are started inside can pass through directories that only
    root may: a service with a dynamic user keeps its state behind one. Raises OSError.
    """
    if os.geteuid() != 0:
        yield
        return
    owner, group = directory.stat(), os.getegid()
    umask = os.umask(UMASK)
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        _pass_through()
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.umask(umask)


def _pass_through() -> None:
    """Take back one of root's capabilities that the change of user has put down.

    Where it is not to be had, as in a container, directories that only root may pass stay shut.
    """
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * (2 * SETS))()
    if libc.capget(header, sets) == 0:
        sets[0] |= 1 << CAP_DAC_READ_SEARCH
        libc.capset(header, sets)
