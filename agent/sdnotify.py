"""Tells systemd how the service is (sd_notify(3)). Without systemd it says nothing."""

import os
import socket
from collections.abc import Mapping

VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Sends assignments such as READY=1 to the socket that systemd named."""

    def __init__(self, *, environ: Mapping[str, str]) -> None:
        address = environ.get(VARIABLE)
        self.watched = watchdog_s(environ, os.getpid()) is not None
        """Whether systemd wants signs of life."""
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    def tell(self, **assignments: str | int) -> None:
        """Send, for example ``READY=1, STATUS="…"``. A deaf systemd is no reason to stop."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in assignments.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(text.encode(), self._address)
            except OSError:
                return


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which systemd wants a sign of life; None when it does not ask this pid."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1e6
