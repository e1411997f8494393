"""A real mosquitto in a process of its own, with a store that survives its restart."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.waiting import PATIENCE, free_port, until

PLACES = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
CONFIG = """\
listener {port} 127.0.0.1
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
log_type all
log_timestamp false
"""


def program(name: str) -> str:
    """The path of one of mosquitto's programs. In CI it must be there."""
    found = shutil.which(name) or shutil.which(name, path=PLACES)
    if found is None:
        tell = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        tell(f"found no {name}: apt install mosquitto")
    return found


class Mosquitto:
    """The broker. It can be stopped and started again with the same port and store.

    ``options``: further lines of its configuration, about the listener.
    """

    def __init__(self, directory: Path, options: str = "allow_anonymous true") -> None:
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "mosquitto.conf"
        # Started as root it would give root up, and could not reach the test's folder.
        root = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(port=self.port, directory=directory) + root + options)
        self._command = [program("mosquitto"), "-c", str(config)]
        self._log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        until(self._listens, lambda: f"mosquitto:\n{self._log.read_text()}")

    def stop(self) -> None:
        """End it as systemd does; it saves its store."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_subscribed(self, topic: str) -> None:
        """Wait until the agent subscribed to the topic: what came before is not for it."""
        until(
            lambda: any(
                line.startswith("ga4-agent-") and line.endswith(f" 1 {topic}")
                for line in self._log.read_text().splitlines()
            ),
            lambda: f"a subscription to {topic}:\n{self._log.read_text()}",
        )

    def said(self, text: str) -> int:
        """How often it logged a line that begins so."""
        return sum(line.startswith(text) for line in self._log.read_text().splitlines())

    def wait_said(self, text: str, times: int = 1) -> None:
        until(lambda: self.said(text) >= times, f"{text!r} of mosquitto, {times} times")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
