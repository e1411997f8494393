"""A real mosquitto in a process of its own, and a program that publishes to it."""

import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from tests.intake.stored import PATIENCE, until

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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


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
        until(self._listens, f"mosquitto:\n{self._log.read_text()}")

    def stop(self) -> None:
        """End it as systemd does; it saves its store."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def said(self, text: str) -> int:
        """How often it logged a line that begins so."""
        return sum(line.startswith(text) for line in self._log.read_text().splitlines())

    def wait_said(self, text: str, times: int = 1) -> None:
        until(lambda: self.said(text) >= times, f"{text!r} of mosquitto, {times} times")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


class Publisher:
    """A program on the device. What ``publish`` returned from, the broker has."""

    def __init__(
        self,
        port: int,
        *,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        if login is not None:
            self._client.username_pw_set(*login)
        if context is not None:
            self._client.tls_set_context(context)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, topic: str, *payloads: bytes, **options: Any) -> None:
        """Hand in messages; QoS 1 unless told."""
        options = {"qos": 1} | options
        infos: list[MQTTMessageInfo] = [
            self._client.publish(topic, payload, **options) for payload in payloads
        ]
        for info in infos:
            info.wait_for_publish(PATIENCE)
            assert info.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
