"""A broker for the demo: mosquitto where it is installed, else amqtt from the demo extra."""

import importlib.util
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

from agent.demo.pace import Pause

Program = Literal["mosquitto", "amqtt"]

MOSQUITTO_PLACES = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
LOOKS = 500  # at whether it listens, before it is given up
LOOK = 0.02  # seconds between looks

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
# As shipped, mosquitto keeps the messages of offline sessions in memory; a kiosk needs these:
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
# It gives up root, and must still reach its store:
user root
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

INSTALL = {
    "mosquitto": "mosquitto (apt install mosquitto)",
    "amqtt": "amqtt (pip install 'ga4-device-agent[demo]')",
}


class NoBroker(Exception):  # noqa: N818 - a state rather than an error
    """There is none on this machine; the message says what to install."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on and that no outgoing connection is given.

    Who listens there is killed and started again: a port of the ephemeral range could by then be
    the local end of somebody's connection.
    """
    try:
        ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        end = max(int(ephemeral.split()[0]), 20_000)
    except OSError:
        end = 32_768
    while True:
        port = random.randrange(10_000, end)  # noqa: S311 - no secret
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Broker:
    """A broker in a process of its own."""

    def __init__(
        self, *, directory: Path, program: Program | None = None, places: str = MOSQUITTO_PLACES
    ) -> None:
        """Raises NoBroker.

        ``program``: the one to use instead of the first that is there; ``places``: where mosquitto
        may be, beside PATH.
        """
        self.port = free_port()
        self._directory = directory
        self._mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path=places)
        self._log = directory / "broker.log"
        self.name = self._choose(program)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def redelivers(self) -> bool:
        """Whether it sends unacknowledged messages again: amqtt does not."""
        return self.name == "mosquitto"

    def start(self, pause: Pause) -> None:
        """Start it and wait until it listens. Raises NoBroker."""
        with self._log.open("ab") as output:
            # A session of its own: Ctrl-C is for the demo, which then ends it.
            self._process = subprocess.Popen(  # noqa: S603 - found on this machine, no shell
                self._command(), stdout=output, stderr=output, start_new_session=True
            )
        for _ in range(LOOKS):
            if self._process.poll() is not None:
                break
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            pause(LOOK)
        raise NoBroker(f"cannot start {self.name}; {self._last_words()}")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _choose(self, program: Program | None) -> Program:
        there: dict[Program, object] = {
            "mosquitto": self._mosquitto,
            "amqtt": importlib.util.find_spec("amqtt"),
        }
        wanted = [program] if program else list(there)
        for name in wanted:
            if there[name]:
                return name
        found = "found neither " if len(wanted) > 1 else "found no "
        raise NoBroker(f"cannot start a broker: {found}{' nor '.join(INSTALL[n] for n in wanted)}")

    def _command(self) -> list[str]:
        if self.name == "mosquitto" and self._mosquitto:
            return [self._mosquitto, "-c", self._configure("mosquitto.conf", MOSQUITTO)]
        config = self._configure("amqtt.yaml", AMQTT)
        return [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", config]

    def _configure(self, name: str, template: str) -> str:
        path = self._directory / name
        path.write_text(template.format(port=self.port, directory=self._directory))
        return str(path)

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"it said: {said[-1]}" if said else "it said nothing"
