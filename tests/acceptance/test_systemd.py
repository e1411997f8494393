"""What systemd hears on NOTIFY_SOCKET, from the real daemon on a real socket."""

import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.emulator import Fault
from tests.acceptance.publishers import hand_in
from tests.waiting import until


class NotifySocket:
    """systemd's ear: remembers every datagram."""

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self.heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def has(self, **assignments: str) -> bool:
        """Whether a datagram with all of these came."""
        return any(assignments.items() <= message.items() for message in self.heard)

    def position(self, name: str) -> int:
        """The number of the first datagram that says something of the name."""
        return next(i for i, message in enumerate(self.heard) if name in message)

    def wait(self, **assignments: str) -> None:
        """Wait for such a datagram."""
        until(lambda: self.has(**assignments), lambda: f"{assignments} in {self.heard}")

    def close(self) -> None:
        """Hear no more."""
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                text = self._socket.recv(65536).decode()
            except TimeoutError:
                continue
            self.heard.append(dict(line.split("=", 1) for line in text.splitlines()))


@pytest.fixture
def systemd(tmp_path) -> Iterator[NotifySocket]:
    ear = NotifySocket(path=tmp_path / "notify")
    yield ear
    ear.close()


def test_systemd_hears_of_start_state_reload_and_stop(make_daemon, setup, emulator, systemd):
    daemon = make_daemon(setup)
    daemon.environ |= {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "4000000"}
    daemon.start()
    systemd.wait(READY="1")
    systemd.wait(WATCHDOG="1")
    systemd.wait(STATUS="ok")
    emulator.fail(Fault("status", status=503))
    hand_in(setup.http_port, [1])
    systemd.wait(STATUS="offline stream main: found 503, expected 204")
    daemon.write(replace(setup, timeout="6 s").toml())
    daemon.signal(signal.SIGHUP)
    systemd.wait(RELOADING="1")
    ready_again = systemd.position("RELOADING") + 1
    until(
        lambda: any("READY" in message for message in systemd.heard[ready_again:]),
        lambda: f"READY=1 after the reload in {systemd.heard}",
    )
    assert int(systemd.heard[ready_again - 1]["MONOTONIC_USEC"]) > 0
    assert daemon.end() == 0
    systemd.wait(STOPPING="1")
    assert systemd.position("READY") < systemd.position("RELOADING") < systemd.position("STOPPING")


def test_no_watchdog_is_fed_that_nobody_asked_for(make_daemon, setup, systemd):
    daemon = make_daemon(setup)
    daemon.environ |= {"NOTIFY_SOCKET": str(systemd.path)}
    daemon.start()
    systemd.wait(STATUS="ok")
    assert daemon.end() == 0
    systemd.wait(STOPPING="1")
    assert not systemd.has(WATCHDOG="1")
