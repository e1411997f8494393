"""The device of the demo: the agent as a process, and programs that hand events to it."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent import urequests
from agent.control import NotRunning, ask
from agent.demo.broker import free_port

TOPIC = "demo/events"
PAYLOAD = '{{"name": "demo_mqtt", "params": {{"number": {}}}}}'
SECRET = "the-demo-needs-no-real-secret"  # noqa: S105 - GA4 never sees it

CONFIG = """\
state_directory = "{state}"

[stream.main]
measurement_id = "G-DEMO000000"
endpoint = "{endpoint}"

[http]
listen = "127.0.0.1:{http_port}"

[mqtt]
host = "127.0.0.1"
port = {mqtt_port}
protocol = "3.1.1"  # amqtt knows no other

[[mqtt.subscriptions]]
topic = "{topic}"

[delivery]
max_delay = "200 ms"
"""


class AgentProcess:
    """The real agent, to be started and killed."""

    def __init__(self, *, directory: Path, endpoint: str, mqtt_port: int) -> None:
        self.state = directory / "state"
        self.http_port = free_port()
        self._config = directory / "agent.toml"
        self._config.write_text(
            CONFIG.format(
                state=self.state,
                endpoint=endpoint,
                http_port=self.http_port,
                mqtt_port=mqtt_port,
                topic=TOPIC,
            )
        )
        self._log = directory / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in the foreground of a process of its own."""
        command = [sys.executable, "-m", "agent", "run", "--config", str(self._config)]
        environ = os.environ | {"GA4_API_SECRET": SECRET, "PYTHONPATH": _here()}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, env=environ, stderr=output)  # noqa: S603 - ourselves

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self._process.wait(timeout=60)

    def ask(self, command: str) -> Any:
        """Ask over the control socket; None while nobody answers there."""
        try:
            return ask(self.state, command)
        except (NotRunning, OSError):
            return None

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text()


class Programs:
    """Programs on the device that hand in numbered events, and remember what was acknowledged."""

    def __init__(self, *, agent: AgentProcess, mqtt_port: int) -> None:
        self._numbers = itertools.count(1)
        self._url = f"http://127.0.0.1:{agent.http_port}/events"
        self._mqtt = Client(CallbackAPIVersion.VERSION2)
        self.acknowledged: set[int] = set()
        self._mqtt.connect("127.0.0.1", mqtt_port)
        self._mqtt.loop_start()

    def by_http(self, count: int) -> None:
        """POST events one by one; the agent answers when each is on the disk."""
        for number in itertools.islice(self._numbers, count):
            event = {"name": "demo_http", "params": {"number": number}}
            with urequests.post(self._url, json=event, timeout=20) as response:
                if response.status_code == 202:  # noqa: PLR2004 - Accepted
                    self.acknowledged.add(number)

    def by_mqtt(self, count: int) -> None:
        """Publish events with QoS 1 and wait until the broker has all of them."""
        published = {
            number: self._mqtt.publish(TOPIC, PAYLOAD.format(number), qos=1)
            for number in itertools.islice(self._numbers, count)
        }
        for number, message in published.items():
            message.wait_for_publish(timeout=20)
            if message.is_published():
                self.acknowledged.add(number)

    def end(self) -> None:
        """Disconnect."""
        self._mqtt.disconnect()
        self._mqtt.loop_stop()


def _here() -> str:
    """Where this very package lies, so that a checkout runs itself and not another version."""
    return str(Path(__file__).parents[2])
