"""A real mosquitto in a process of its own, with a store that survives its restart."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.acceptance.daemon import free_port, until

PLACES = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
log_type subscribe
log_type error
log_type notice
"""


def find_mosquitto() -> str:
    """Its path. Where it is missing the test is skipped, but never in CI."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=PLACES)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("cannot run: found no mosquitto; apt install mosquitto")
    if found is None:
        pytest.skip("found no mosquitto; apt install mosquitto")
    return found


class Mosquitto:
    """The broker. It can be stopped and started again on the same port and store."""

    def __init__(self, *, directory: Path) -> None:
        self.port = free_port()
        directory.mkdir()
        config = directory / "mosquitto.conf"
        # Started as root it would give root up, and could not reach the test's folder.
        root = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(port=self.port, directory=directory) + root)
        self._command = [find_mosquitto(), "-c", str(config)]
        self._log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers a CONNECT."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        until(self._answers, lambda: f"a CONNACK of mosquitto:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Stop it as systemd does; it saves its store."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_subscribed(self, topic: str) -> None:
        """Wait until the agent subscribed to the topic: what came before is not for it."""
        until(
            lambda: any(
                line.endswith(f" 1 {topic}") and ": ga4-agent-" in line
                for line in self._log.read_text().splitlines()
            ),
            lambda: f"a subscription to {topic}:\n{self._log.read_text()}",
        )

    def _answers(self) -> bool:
        client = Client(CallbackAPIVersion.VERSION2, client_id="probe")
        greeted: list[bool] = []
        client.on_connect = lambda _c, _d, _f, code, _p: greeted.append(not code.is_failure)
        try:
            client.connect("127.0.0.1", self.port)
        except OSError:
            return False
        for _ in range(100):
            if greeted:
                break
            client.loop(0.1)
        client.disconnect()
        return greeted == [True]
