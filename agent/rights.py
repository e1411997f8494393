"""Root works on the state as its owner: what is written then belongs to the service's user.

Root would leave files behind that the service cannot open, and would follow links that the
service's user has laid.
"""

import ctypes
import os
import pwd
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

    The whole process is, with the owner's groups. One thing of root stays where the owner itself
    does not get to the directory, because a service with a dynamic user keeps its state behind
    one that only root may pass: this thread, and threads that are started inside, can pass
    through any directory and read any file. There the owner could lay links to what only root
    may read: what is read inside must not be shown to it. Raises OSError.
    """
    if os.geteuid() != 0:
        yield
        return
    owner, group, groups = directory.stat(), os.getegid(), os.getgroups()
    umask = os.umask(UMASK)
    try:
        os.setgroups(_groups(owner))
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        if not os.access(directory, os.X_OK, effective_ids=True):
            _pass_through()
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
        os.umask(umask)


def _groups(owner: os.stat_result) -> list[int]:
    """The groups that the owner has, also beside the directory's."""
    try:
        name = pwd.getpwuid(owner.st_uid).pw_name
    except KeyError:
        return [owner.st_gid]  # a dynamic user has no name while its service is stopped
    return os.getgrouplist(name, owner.st_gid)


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
