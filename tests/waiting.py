"""Waiting for what another process or thread does, and ports for it to do it on."""

import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 20.0  # seconds for anything to happen that should; reached only by a failing test
LOOK = 0.01  # seconds between looks


def free_port() -> int:
    """A port that nobody listens on and that no outgoing connection is going to be given.

    A daemon is killed and started again on its port: one from the ephemeral range could by then
    be the local end of somebody's connection.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    while True:
        port = random.randrange(10_000, int(ephemeral[0]))
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def until(
    condition: Callable[[], object], what: Callable[[], str] | str, timeout: float = PATIENCE
) -> None:
    """Return when it is so; fail, saying what was waited for, when it is not within seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout} s in vain for {said}")
        time.sleep(LOOK)
