"""The device of the demo: the agent as a process, with the least configuration."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.control import ControlError, NotRunning, ask
from agent.demo.broker import free_port
from agent.demo.scene import Phase

TOPIC = "demo/events"
SECRET = "the-demo-needs-no-real-secret"  # noqa: S105 - GA4 never sees it

# What the demo runs with. device_configs/demo.toml is for playing by hand: it has fixed ports.
CONFIG = """\
state_directory = "{state}"
volatile = true  # the demo's directory may be in memory

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
        self.phase: Phase = "not started"

    def start(self) -> None:
        """Start it in the foreground of a process and session of its own.

        Ctrl-C is for the demo, which then ends it.
        """
        command = [sys.executable, "-m", "agent", "run", "--config", str(self._config)]
        environ = os.environ | {"GA4_API_SECRET": SECRET, "PYTHONPATH": _path()}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command, env=environ, stdout=output, stderr=output, start_new_session=True
            )
        self.phase = "starting"

    def status(self) -> dict[str, Any] | None:
        """What `status --json` shows; None while nobody answers."""
        if self.phase == "ending":
            return None  # it has better things to do
        status: dict[str, Any] | None = self._ask("status")
        if status is not None and self.phase == "starting":
            self.phase = "running"
        return status

    def flush(self) -> None:
        """Have it try now, whatever its backoff says."""
        self._ask("flush")

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        if self._process is not None and self.phase != "ended":
            self._process.kill()
            self._process.wait()
            self.phase = "killed"

    def terminate(self) -> None:
        """SIGTERM: finish what is going on."""
        if self._process is not None:
            self.phase = "ending"
            self._process.terminate()

    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self.phase = "ended"
        return code

    def last_words(self) -> str:
        """The last line of its log."""
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"it said: {said[-1]}" if said else "it said nothing"

    def _ask(self, command: str) -> Any:
        try:
            return ask(self.state, command)
        except (NotRunning, ControlError, OSError, ValueError):
            return None  # ValueError: it was killed within its answer


def _path() -> str:
    """Where modules are looked for: this very package first, so that a checkout runs itself."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
