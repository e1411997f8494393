"""The real daemon in a process of its own: configured, started, asked, killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.control import ControlError, NotRunning, ask
from agent.queue.ledger import Books
from agent.queue.reader import read_snapshot
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-of-the-stream-0815"

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a test's agent.toml says. ``endpoint`` None: no stream; ``mqtt_port`` None: no MQTT."""

    state: Path
    http_port: int
    endpoint: str | None = None
    measurement_id: str = "G-ACCEPT0001"
    mqtt_port: int | None = None
    topics: Sequence[str] = ("kiosk/events",)
    mqtt: str = ""
    http: str = ""
    stream: str = ""
    timeout: str = "5 s"

    def toml(self) -> str:
        """The file's text."""
        parts = [
            # Where /tmp lies in memory, the state would be "volatile" in place of "ok".
            f'state_directory = "{self.state}"\nvolatile = true',
            self._stream(),
            f'[http]\nlisten = "127.0.0.1:{self.http_port}"\nread_deadline = "2 s"\n{self.http}',
            self._mqtt(),
            f'[delivery]\nmax_delay = "50 ms"\ntimeout = "{self.timeout}"',
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _stream(self) -> str:
        if self.endpoint is None:
            return ""
        ids = f'measurement_id = "{self.measurement_id}"\nendpoint = "{self.endpoint}"'
        return f"[stream.main]\n{ids}\n{self.stream}"

    def _mqtt(self) -> str:
        if self.mqtt_port is None:
            return ""
        broker = f'host = "127.0.0.1"\nport = {self.mqtt_port}\nreconnect_max = "1 s"'
        topics = [f'[[mqtt.subscriptions]]\ntopic = "{topic}"' for topic in self.topics]
        return "\n".join(["[mqtt]", broker, self.mqtt, *topics])


class Daemon:
    """``ga4-agent run`` on a configuration file and a state directory of its own."""

    def __init__(self, *, directory: Path, setup: Setup) -> None:
        self.setup = setup
        self.config = directory / "agent.toml"
        self._log = directory / "agent.log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.program: Sequence[str] = (sys.executable, "-m", "agent", "run")
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "GA4_API_SECRET": SECRET,
            "STATE_DIRECTORY": str(directory / "no-state"),  # not that of an agent of this machine
        }
        self.bugs_expected = False
        self.write(setup.toml())

    # -- its life ---------------------------------------------------------------------------

    def write(self, toml: str) -> None:
        """Put another text into the configuration file."""
        self.config.write_text(toml)

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        command = [*self.program, "--config", str(self.config)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environ, stdout=output, stderr=output
            )

    def start(self) -> None:
        """Start it and wait until it can be asked and its HTTP door is open."""
        self.spawn()
        self.wait(lambda _: True)
        until(self.listens, self.tail)

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush. Does nothing if it runs no more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self, *, timeout: float = PATIENCE) -> int:
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.exit_status(timeout=timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def exit_status(self, *, timeout: float = PATIENCE) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        return self._running().wait(timeout)

    def died(self) -> bool:
        """Whether it was started and runs no more."""
        return self._running().poll() is not None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the daemon was never started"
        return self._process

    # -- what it says -----------------------------------------------------------------------

    def ask(self, command: str) -> Any:
        """Have it do something, over the control socket."""
        return ask(self.setup.state, command)

    def flush(self) -> None:
        """Have it try at once, if it can be asked."""
        try:
            self.ask("flush")
        except (NotRunning, ControlError, OSError):
            return

    def status(self) -> Status | None:
        """Its status; None while nobody answers, or when it died before it did."""
        try:
            return self.ask("status")
        except (NotRunning, ControlError, OSError):
            return None

    def wait(
        self,
        condition: Callable[[Status], object],
        *,
        timeout: float = PATIENCE,
        flush: bool = False,
    ) -> Status:
        """Its status once the condition holds for it; with ``flush`` it is urged on meanwhile."""
        seen: list[Status | None] = [None]

        def holds() -> bool:
            assert not self.died(), f"the daemon died:\n{self.tail()}"
            if flush:
                self.flush()
            seen.append(self.status())
            return seen[-1] is not None and bool(condition(seen[-1]))

        until(holds, lambda: f"another status than {seen[-1]}\n{self.tail()}", timeout=timeout)
        assert seen[-1] is not None
        return seen[-1]

    def wait_received(self, number: int) -> None:
        """Wait until at least so many events are on its disk."""
        self.wait(lambda status: status["ledger"]["received"] >= number)

    def drained(self) -> Books:
        """Urge it on until its queue is empty; the books then."""
        self.wait(lambda status: status["queue"]["events"] == 0, flush=True, timeout=60)
        return self.books()

    def wait_logged(self, text: str) -> None:
        """Wait until the text stands in its log."""
        until(lambda: text in self.log, lambda: f"{text!r} in its log:\n{self.tail()}")

    def listens(self) -> bool:
        """Whether somebody answers on its HTTP port."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.setup.http_port)) == 0

    def books(self) -> Books:
        """The ledger as it lies on the disk, whether the daemon runs or not."""
        return read_snapshot(self.setup.state).books

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of ga4-agent on the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments, "--config", str(self.config)],
            cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    @property
    def log(self) -> str:
        """All that it said, in all its lives."""
        return self._log.read_text()

    def tail(self) -> str:
        """The end of its log, for the message of a failing test."""
        return self.log[-4000:]

    # -- the end of every test --------------------------------------------------------------

    def check(self) -> None:
        """What holds in every story: no bug, no secret said, and books that balance."""
        log = self.log
        assert "Traceback" not in log, log
        assert self.bugs_expected or "a bug ends the agent" not in log, log
        assert SECRET not in log
        if (self.setup.state / "queue.db").exists():
            books = self.books()
            assert books.balanced, books
