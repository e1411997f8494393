"""A broker for the demo: mosquitto where it is installed, else amqtt from the demo extra."""

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

MOSQUITTO_PLACES = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
START = 10.0  # seconds a broker may take to listen

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
# As shipped, mosquitto keeps the messages of offline sessions in memory; a kiosk needs these:
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
"""

AMQTT = """\
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


class NoBroker(Exception):  # noqa: N818 - a state rather than an error
    """There is none on this machine; the message says what to install."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


class Broker:
    """A broker in a process of its own. ``name`` is the program's."""

    def __init__(self, *, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self.name, self._command = self._choose()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def redelivers(self) -> bool:
        """Whether it sends unacknowledged messages again: amqtt does not."""
        return self.name == "mosquitto"

    def start(self) -> None:
        """Start it and wait until it listens. Raises NoBroker."""
        with (self._directory / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - found on this machine, no shell
                self._command, stdout=output, stderr=output
            )
        until = time.monotonic() + START
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise NoBroker(f"cannot start {self.name}: see {self._directory}/broker.log")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _choose(self) -> tuple[str, list[str]]:
        mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path=MOSQUITTO_PLACES)
        if mosquitto:
            return "mosquitto", [mosquitto, "-c", self._configure("mosquitto.conf", MOSQUITTO)]
        if importlib.util.find_spec("amqtt"):
            config = self._configure("amqtt.yaml", AMQTT)
            return "amqtt", [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", config]
        raise NoBroker(
            "cannot start a broker: found neither mosquitto (apt install mosquitto) "
            "nor amqtt (pip install 'ga4-device-agent[demo]')"
        )

    def _configure(self, name: str, template: str) -> str:
        path = self._directory / name
        path.write_text(template.format(port=self.port, directory=self._directory))
        # mosquitto gives up root, and must still reach its store.
        if name == "mosquitto.conf":
            path.write_text(path.read_text() + "user root\n")
        return str(path)
