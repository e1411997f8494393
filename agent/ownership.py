"""Who owns the state: the daemon holds a lock on the state directory while it runs."""

import fcntl
import os
from pathlib import Path

LOCK_FILE = "lock"


class AlreadyOwned(Exception):  # noqa: N818 - a state rather than an error
    """Another process works on this state directory."""


class StateLock:
    """The lock. The kernel releases it when its process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> "StateLock":
        """Lock the state directory. Raises AlreadyOwned."""
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyOwned(
                f"cannot use {directory}: another ga4-agent works on it; "
                "stop that one first (systemctl stop ga4-agent)"
            ) from None
        return cls(descriptor)

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)
